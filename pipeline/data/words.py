"""Names and strings for generated code, dealt out so that what a task tests was never seen in a generated idiom.

Four disjoint shares: ``IDIOM_WORDS`` for the idioms of the training corpus, and ``TASK_WORDS`` for the train,
validation and test pairs of the tasks. Which share a whole identifier or phrase belongs to is decided by its own hash
and stays so when words are added. ``ATTRIBUTES`` are the exception: ordinary names of one token that tasks about
copying need as answers in every share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")


ATTRIBUTES = tuple(
    """
    name value data size path key type index start end text mode line item file result count config parent node args
    code source target state level group model field host port user token label format prefix title content message
    base root order width height offset limit length scale shape color style status method query filter handler
    context options params version module
    """.split()
)

_NOUNS = tuple(
    """
    account actor address agent alarm album alias amount anchor angle animal answer apple apron arch archive area
    arena army arrow artist aspect asset atlas atom author award axis badge bag baker ball band bank banner barn
    barrel basin basket batch battery beach beacon beam bean bear bell bench berry bike bill bird blade blanket
    blend block board boat bolt bonus book booth border bottle bound bowl box brain branch brand bread brick bridge
    brook brush bucket budget bug builder bundle burger bus butter button cabin cabinet cable cake camera camp canal
    candle canvas canyon cap capital car card cargo carpet carrier cart castle cat catalog cattle cave ceiling cell
    center chain chair chalk chamber channel chapter charge chart chest chief child choice chorus circle citizen
    city claim clerk cliff clinic clock closet cloth cloud club coach coast coat coffee coin collar colony column
    comet comic company compass concert contact corner cost cottage cotton couch counter country county couple
    course court cousin cover cow craft crane crate cream crew crop cross crowd crown crystal cup curtain curve
    cycle dancer dealer debt deck deer demand depot desert desk detail device dial diamond diary dinner dish
    distance ditch doctor document dog dollar domain door dose draft dragon drawer dream dress drill driver drum
    duck duty eagle earth edge editor effect egg elbow element engine entry envelope episode error essay estate
    event exam expert fabric face factor factory fan farm farmer fashion feast feather fence ferry fiber figure film
    finger fire fish flag flame flavor fleet flight floor flour flower flute folder food force forest fork fort
    fossil fountain fox frame friend frog fruit fuel fund fur future galaxy gallery game garage garden garlic gas
    gate gear gem gift glacier glass globe glove goal goat gold grain grape grass gravel grid guard guest guide
    guitar gulf habit hall hammer hand harbor harvest hat hawk health heart hedge helmet herd hero hill hint hobby
    hole home honey hook horse hotel hour house hunter image impact inch income insect iron island issue ivory
    jacket jar jet jewel job joint journal journey judge juice jungle kernel kettle kid king kitchen kite knee knife
    knot ladder lake lamp land lane lantern laser lawn lawyer layer leader leaf league lemon lesson letter library
    lid lift light link lion lock lodge log loop lunch machine magnet mail maker mall manager marble margin market
    mask master match meadow meal medal melody member memory menu merchant metal meter midnight mile milk mill mine
    minute mirror mission mixer moment monkey month moon morning motor mountain mouse mouth movie muscle museum
    music nail nation nature neck needle nest net newspaper night noise north nose notebook notice novel number
    nurse oak ocean office oil olive onion opera opinion orange orbit orchard organ outcome oven owl owner oxygen
    oyster package packet page paint pair palace palm panel paper parade parcel park part partner party passage
    patch patient pattern payment peach peak pearl pen pencil people pepper permit person phase phone photo phrase
    piano picture pie piece pig pile pillow pilot pine pipe pirate pixel pizza place plan planet plant plate
    platform player plaza plot pocket poem poet point pole policy pond pool portal portion post pot potato powder
    prairie price prince prize problem product profile profit program project proof pulse pump pupil puzzle quarter
    queen quest rabbit race rack radar radio raft rail rain ranch ratio reader rebel recipe record region report
    reserve resource rest review reward rhythm ribbon rice rider ridge ring river road robot rocket roof room rope
    rose route row ruler runner saddle sail salad salary salmon salt sample sand sauce scene school science score
    screen script sea season seat second secret section sector seed segment sensor sentence series server service
    session shade shadow sheep sheet shelf shell shelter shift ship shirt shoe shop shore shoulder sign signal
    silver singer sink sister site skill skin sky sleeve slide slope smoke snack snow soap soil soldier song sound
    soup south space speaker speech speed spice spider spirit spoon sport spot spring square stable staff stage
    stair stamp star station statue steam steel stem step stone store storm story stove stream street studio suburb
    sugar suit summer sun supply surface switch symbol system table tail talent tank task taste tax taxi tea teacher
    team temple tenant tent term theater theory thread throat ticket tide tiger timber tire toast tomato tool tooth
    topic total tour tower town toy track trade traffic trail train tray treaty tree trend trial tribe trick trip
    truck trunk tube tunnel turkey turtle twin uncle union unit valley van vector vehicle vendor verse vessel victim
    victory village violin virus visit visitor voice volcano volume voter voyage wagon wall walnut warden warrior
    watch water wave wealth weapon weather wedding week weight west whale wheat wheel whisper wife wind window wine
    wing winner winter wire witness wolf wood wool word worker world wound writer yard year zebra zone abbey acid
    acorn acre action adult affair aide aim aisle alley ally almond alloy altar anthem antler anvil ash attic aunt
    autumn avenue axle bacon bait bakery balcony ballad bamboo banana bandit banjo bard bark barley basil bass bat
    bath bay bead beard beast bee beef beetle belly belt biscuit bishop blaze blessing bloom blossom blouse blow
    boar body boiler bond bone boot borrower bough boulder bow braid brake brass bravery breath breeze bride brief
    broom broth brother buffalo bulb bull bunker burrow bush buyer cab cactus cadet cage calf campus candy cane
    cannon canoe cape caper captain caravan carbon carol carp carrot carton cascade cashier cask cavalry cedar
    celery cellar cello cement census chalet champion chapel chariot charm chasm cheek cheese cherry chess chimney
    chin chip cider cinema circus clam clan clash clay cleaner clover clown clue coal cobra cocoa cod codec coil
    colt comb comma comrade cone convoy cook copper coral cord core cork corn corridor cosmos council courier crab
    cradle crater crayon creek crest cricket crook crow crumb crust cub cube cuff curd cushion dairy daisy dam dame
    dart dash dawn debate deed delta den denim deputy design dessert dew dice diesel diet dime diner dirt disc dock
    dolphin donkey dove dough drain drift drone drop dune dust dwarf ear east easel echo eel eggplant elder elf elk
    elm ember emblem emperor empire enamel enemy energy envoy era errand ether evening exile eye eyebrow fable fairy
    falcon fame fang fare fault favor fawn feat fee fern festival fever fiddle fig filing finch firm fist flask flea
    fleece flint flock flood fluid foam fog foil folk font foot forge fraction freight fringe frost fudge funnel
    fury gallon gang gap gauge gazelle geese gender general genius gesture geyser ghost giant ginger girl glade glue
    gnome gorge gossip grace grade granite grave gravy grease grill grin grip grocer grove growth guild gull gum
    gust gym hail hair ham hare harp hatch haven hay haze hazel heat heel heir hen herb heron hinge hip hive
    hood hoof hoop horn hose hostel hull humor hunt hurdle husk hut hymn ice icon idea idol igloo iris ivy jade jam
    jasmine jaw jeans jelly jockey joke joy jug juggler jury kayak keel kennel kiosk kiwi knight koala lace lad
    lagoon lamb larch lark latch lava lead leash lecture ledge leg lever liar lily limb lime linen liver lizard
    llama loan lobby lobster locust loft logic loom lord lotus luck lumber lunar lung lute lynx lyric magic maid
    maize manor mansion mantle maple mare marsh mast mat mayor maze meat medic melon mentor mercy merit mesh mime
    mink mint miracle mist moat mob mole monk mood moose mop moss moth mound mud mug mule mural mustard myth napkin
    navy nectar nephew nerve nickel niece noodle noon nut oar oasis oat oath odor officer omen onyx oracle orchid
    ore otter ounce outfit outlet oval pad paddle pail pan panda pansy papaya parrot pasta paste pasture patrol
    pavement paw pea peacock pear pebble pedal pelican perch perfume petal pier pigeon pill pin pint piper pit pitch
    planter plaster plaque plow plum plumber plume poison poker polo pony poppy porch pork porter poster pottery
    pouch poultry praise prawn prayer prose pudding puddle pulp pulley puma puppet puppy purse python quail quarry
    quartz quay quill quilt quiver quota rag raid raisin rake ram ramp ranger ransom raven ray razor reef referee
    refuge relic rent reptile rhyme rib riddle riot ritual rival roast robe robin rod roll rook rooster rover royal
    rubber rug ruin rum rumor rust sack safari saga sage saint salsa sandal satin sauna saw scar scarf scent scholar
    scoop scout scrap seal seam sequel serum shale shark shawl shed sheriff shield shin shrimp shrine shrub shuttle
    sigh silk sinew siren skate ski skirt skull sled sleet sling slipper sloth slug smile snail snake sofa sonnet
    soul spade spark spear sphere spike spine sponge spout spruce spy squad squid squire stack stalk stallion stew
    stool straw stripe stump stunt summit swamp swan swarm sweat sword syrup tablet tailor talon tan tango tar tart
    tavern tear tempo tennis thief thigh thorn throne thumb thunder tiara tick tile tin tip titan tongue torch torso
    tortoise towel toxin tractor tram traitor trap treasure trench triumph trophy trout tuba tug tulip tuna turnip
    tusk twig tyrant urn utensil valet valve vase vault veil vein velvet venom vest vial vine vinegar viper vision
    vow vulture waffle wage waist waiter wand ward wares warmth wasp wax weasel weaver web weed whip whistle wick
    widow wig willow wit wizard wrench wrist yacht yak yam yarn yeast yoke yolk youth zinc zoo
    """.split()
)

_QUALIFIERS = tuple(
    """
    active actual big blue clean cold current daily dark deep distant dry early empty extra fast final first free
    fresh full green happy hidden inner known large last late left local long lost main modern narrow new next old
    open outer pending plain quick quiet rare raw ready recent red right rough round sharp short silent simple small
    smooth soft spare stable steep strange tall tiny total unique unused upper warm weekly white wide wild young
    able alert aged ample bare basic bitter blank blunt bold brave brief bright brisk broad broken busy calm cheap
    chief civil common cool crisp cruel cute damp dense dim double dull dusty eager equal even exact faint fair
    false fancy fat fierce firm flat fond foreign formal frozen funny gentle grand gray great grim harsh heavy high
    hollow holy honest hot huge humble idle jolly just keen kind lazy lean light lively loose loud loyal lucky mad
    major mellow mild minor moist neat noble odd pale plump polite poor proper proud pure rich ripe rude rural safe
    sad sandy secure severe shallow sheer shy sick silly single sleepy slight slim slow smart sober solid sour
    special spicy steady stern stiff still strict strong sudden sweet swift tame tart tender thick thin tidy tight
    tough true ugly urban usual vague vast vivid warped weak wet wise wooden yellow
    """.split()
)

VERBS = tuple(
    """
    add apply build change check clean close collect copy count create draw fetch fill find fix get give handle keep
    list load make mark measure merge move open paint parse pick plan print read remove rename report run save scan
    select send show sort split start stop store track update visit write accept adjust align append assign attach
    bind block book call cast chase choose clear combine compare convert cut delete deny detect drop edit emit
    enable encode enter expand export extract fit flag flip fold follow freeze gather guess guide hide hold insert
    inspect invert join jump kick launch learn leave lift link lock log look map match mix mount need notify pack
    patch pause place play poll post press prove pull push queue rank reach reject release render repair reply
    request reset resolve restore resume retry review rotate route score search seek serve set shift shrink sign
    skip slice solve spin spread stack stage stream submit sum swap sync tag take test throw tie touch trace train
    trim turn unlock unpack use verify view wait walk warn watch wrap
    """.split()
)

_ROLES = ("", "Manager", "Reader", "Writer", "Builder", "Error", "Info", "View", "Handler", "Store")


@dataclass(frozen=True)
class WordPool:
    """One share of the words."""

    names: tuple[str, ...]  # variables: one word, or two joined by an underscore
    functions: tuple[str, ...]  # verb_noun
    classes: tuple[str, ...]  # CamelCase
    strings: tuple[str, ...]  # one to three plain lower-case words


def _share(word: str) -> str:
    """Which share a word belongs to: a fifth for each split of the tasks, the rest for the idioms."""
    bucket = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 100
    return SPLITS[bucket // 20] if bucket < 60 else "idioms"


def _of_share(words: Iterable[str], share: str) -> tuple[str, ...]:
    return tuple(word for word in dict.fromkeys(words) if _share(word) == share and word not in ATTRIBUTES)


def _thin(first: Iterable[str], second: tuple[str, ...], step: int, pattern: str) -> list[str]:
    """Some of the products of two lists: ``step`` of the second for each of the first.

    Spread evenly, where the second list's length is no multiple of 7.
    """
    assert len(second) % 7, "a multiple of 7: only a seventh of the words would be used"
    return [pattern.format(a, second[(7 * i + k * 31) % len(second)]) for i, a in enumerate(first) for k in range(step)]


def _pool(share: str) -> WordPool:
    compounds = _thin(_NOUNS, _QUALIFIERS, 1, "{1}_{0}")
    phrases = _thin(_NOUNS, _QUALIFIERS, 1, "the {1} {0}") + _thin(_NOUNS, _QUALIFIERS, 2, "{1} {0}")
    extra = ATTRIBUTES if share == "idioms" else ()
    return WordPool(
        names=extra + _of_share([*_NOUNS, *compounds], share),
        functions=_of_share(_thin(_NOUNS, VERBS, 2, "{1}_{0}"), share),
        classes=_of_share(
            [noun.title() + role for noun, role in zip(_NOUNS, _ROLES * len(_NOUNS), strict=False)], share
        ),
        strings=_of_share([*_NOUNS, *phrases], share),
    )


IDIOM_WORDS: WordPool = _pool("idioms")
TASK_WORDS: dict[str, WordPool] = {split: _pool(split) for split in SPLITS}

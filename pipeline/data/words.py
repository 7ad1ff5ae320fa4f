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


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ATTRIBUTES = _split(
    """
    name value data size path key type index start end text mode line item file result count config parent node args
    code source target state level group model field host port user token label format prefix title content message
    base root order width height offset limit length scale shape color style status method query filter handler
    context options params version module
    """
)

_NOUNS = _split(
    """
    account actor address agent alarm album alias amount anchor angle animal answer apple apron arch archive area arena
    army arrow artist aspect asset atlas atom author award axis badge bag baker ball band bank banner barn barrel basin
    basket batch battery beach beacon beam bean bear bell bench berry bike bill bird blade blanket blend block board
    boat
    bolt bonus book booth border bottle bound bowl box brain branch brand bread brick bridge brook brush bucket budget
    bug builder bundle burger bus butter button cabin cabinet cable cake camera camp canal candle canvas canyon cap
    capital car card cargo carpet carrier cart castle cat catalog cattle cave ceiling cell center chain chair chalk
    chamber channel chapter charge chart chest chief child choice chorus circle citizen city claim clerk cliff clinic
    clock closet cloth cloud club coach coast coat coffee coin collar colony column comet comic company compass concert
    contact corner cost cottage cotton couch counter country county couple course court cousin cover cow craft crane
    crate cream crew crop cross crowd crown crystal cup curtain curve cycle dancer dealer debt deck deer demand
    depot desert desk detail device dial diamond diary dinner dish distance ditch doctor document dog dollar domain door
    dose draft dragon drawer dream dress drill driver drum duck duty eagle earth edge editor effect egg elbow element
    engine entry envelope episode error essay estate event exam expert fabric face factor factory fan farm farmer
    fashion feast feather fence ferry fiber figure film finger fire fish flag flame flavor fleet flight floor flour
    flower flute folder food force forest fork fort fossil fountain fox frame friend frog fruit fuel fund fur future
    galaxy gallery game garage garden garlic gas gate gear gem gift glacier glass globe glove goal goat gold grain grape
    grass gravel grid guard guest guide guitar gulf habit hall hammer hand harbor harvest hat hawk health heart hedge
    helmet herd hero hill hint hobby hole home honey hook horse hotel hour house hunter image impact inch income insect
    iron island issue ivory jacket jar jet jewel job joint journal journey judge juice jungle kernel kettle kid king
    kitchen kite knee knife knot ladder lake lamp land lane lantern laser lawn lawyer layer leader leaf league lemon
    lesson letter library lid lift light link lion lock lodge log loop lunch machine magnet mail maker mall manager
    marble margin market mask master match meadow meal medal melody member memory menu merchant metal meter midnight
    mile milk mill mine minute mirror mission mixer moment monkey month moon morning motor mountain mouse mouth movie
    muscle museum music nail nation nature neck needle nest net newspaper night noise north nose notebook notice novel
    number nurse oak ocean office oil olive onion opera opinion orange orbit orchard organ outcome oven owl owner
    oxygen oyster package packet page paint pair palace palm panel paper parade parcel park part partner party passage
    patch patient pattern payment peach peak pearl pen pencil people pepper permit person phase phone photo phrase piano
    picture pie piece pig pile pillow pilot pine pipe pirate pixel pizza place plan planet plant plate platform player
    plaza plot pocket poem poet point pole policy pond pool portal portion post pot potato powder prairie price prince
    prize problem product profile profit program project proof pulse pump pupil puzzle quarter queen quest rabbit race
    rack radar radio raft rail rain ranch ratio reader rebel recipe record region report reserve resource rest
    review reward rhythm ribbon rice rider ridge ring river road robot rocket roof room rope rose route row ruler runner
    saddle sail salad salary salmon salt sample sand sauce scene school science score screen script sea season seat
    second secret section sector seed segment sensor sentence series server service session shade shadow sheep sheet
    shelf shell shelter shift ship shirt shoe shop shore shoulder sign signal silver singer sink sister site skill skin
    sky sleeve slide slope smoke snack snow soap soil soldier song sound soup south space speaker speech speed
    spice spider spirit spoon sport spot spring square stable staff stage stair stamp star station statue steam steel
    stem step stone store storm story stove stream street studio suburb sugar suit summer sun supply surface switch
    symbol system table tail talent tank task taste tax taxi tea teacher team temple tenant tent term theater theory
    thread throat ticket tide tiger timber tire toast tomato tool tooth topic total tour tower town toy track trade
    traffic trail train tray treaty tree trend trial tribe trick trip truck trunk tube tunnel turkey turtle twin uncle
    union unit valley van vector vehicle vendor verse vessel victim victory village violin virus visit visitor voice
    volcano volume voter voyage wagon wall walnut warden warrior watch water wave wealth weapon weather wedding week
    weight west whale wheat wheel whisper wife wind window wine wing winner winter wire witness wolf wood wool word
    worker world wound writer yard year zebra zone
    """
)

_QUALIFIERS = _split(
    """
    active actual big blue clean cold current daily dark deep distant dry early empty extra fast final first free fresh
    full green happy hidden inner known large last late left local long lost main modern narrow new next old open outer
    pending plain quick quiet rare raw ready recent red right rough round sharp short silent simple small smooth soft
    spare stable steep strange tall tiny total unique unused upper warm weekly white wide wild young
    """
)

_VERBS = _split(
    """
    add apply build change check clean close collect copy count create draw fetch fill find fix get give handle keep
    list
    load make mark measure merge move open paint parse pick plan print read remove rename report run save scan select
    send show sort split start stop store track update visit write
    """
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
    """Which share a word belongs to: 15 % for each split of the tasks, the rest for the idioms."""
    bucket = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 100
    return SPLITS[bucket // 15] if bucket < 45 else "idioms"


def _of_share(words: Iterable[str], share: str) -> tuple[str, ...]:
    return tuple(word for word in dict.fromkeys(words) if _share(word) == share and word not in ATTRIBUTES)


def _thin(first: Iterable[str], second: tuple[str, ...], step: int, pattern: str) -> list[str]:
    """Some of the products of two lists, spread evenly: ``step`` of the second for each of the first."""
    return [pattern.format(a, second[(7 * i + k * 31) % len(second)]) for i, a in enumerate(first) for k in range(step)]


def _pool(share: str) -> WordPool:
    compounds = _thin(_NOUNS, _QUALIFIERS, 1, "{1}_{0}")
    phrases = _thin(_NOUNS, _QUALIFIERS, 1, "the {1} {0}") + _thin(_NOUNS, _QUALIFIERS, 2, "{1} {0}")
    extra = ATTRIBUTES if share == "idioms" else ()
    return WordPool(
        names=extra + _of_share([*_NOUNS, *compounds], share),
        functions=_of_share(_thin(_NOUNS, _VERBS, 2, "{1}_{0}"), share),
        classes=_of_share(
            [noun.title() + role for noun, role in zip(_NOUNS, _ROLES * len(_NOUNS), strict=False)], share
        ),
        strings=_of_share([*_NOUNS, *phrases], share),
    )


IDIOM_WORDS: WordPool = _pool("idioms")
TASK_WORDS: dict[str, WordPool] = {split: _pool(split) for split in SPLITS}

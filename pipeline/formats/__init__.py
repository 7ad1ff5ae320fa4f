"""The field's own formats, in and out: models, tokenizers, circuits, means of foreign models (docs/formats.md).

``read_foreign(folder)`` reads a model in any of them; ``export_model`` writes one.
"""

from pipeline.formats.errors import FormatError
from pipeline.formats.foreign import Foreign, import_model, is_foreign, read_foreign

__all__ = ["Foreign", "FormatError", "import_model", "is_foreign", "read_foreign"]

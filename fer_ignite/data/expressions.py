"""Expression vocabulary: synonyms of the expressions, and their numbering in published data sets.

Every data set names and numbers the expressions in its own way. Data keeps its own names; this table says which
expression a name means, so that data and checkpoints of different origin can be matched. Numbers mean nothing without
the data set that they come from, so they are never matched.
"""

import re
import unicodedata
from collections.abc import Sequence

__all__ = [
    "EXPRESSIONS",
    "FER2013_CODES",
    "FERPLUS_COLUMNS",
    "NUMBERED_CLASSES",
    "SYNONYMS",
    "are_numbers",
    "find_expression",
    "other_spellings",
]

# Position = the value of the `emotion` column of fer2013.csv.
FER2013_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# The ten vote columns of fer2013new.csv, in the file's order, as the file's header writes them.
# "unknown" and "NF" (not a face) are no expressions: what they win is left out of training and scoring.
FERPLUS_COLUMNS = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",
)

# The words that data sets use for each expression; the codes of two letters are those of JAFFE and KDEF (AF: afraid).
SYNONYMS: dict[str, tuple[str, ...]] = {
    "angry": ("angry", "anger", "mad", "an", "怒り", "怒"),
    "disgust": ("disgust", "disgusted", "di", "嫌悪"),
    "fear": ("fear", "fearful", "afraid", "scared", "fe", "af", "恐怖", "恐れ"),
    "happy": ("happy", "happiness", "joy", "joyful", "ha", "喜び", "幸福"),
    "sad": ("sad", "sadness", "sa", "悲しみ"),
    "surprise": ("surprise", "surprised", "suprise", "su", "驚き"),
    "neutral": ("neutral", "neutrality", "ne", "中立", "無表情"),
    "contempt": ("contempt", "contemptuous", "co", "軽蔑"),
}
EXPRESSIONS = tuple(SYNONYMS)

# Published numberings, as `number: expression`, by the name that --layout gives them.
NUMBERED_CLASSES: dict[str, dict[int, str]] = {
    "fer2013": dict(enumerate(FER2013_CODES)),
    # Li, Deng and Du: Reliable Crowdsourcing and Deep Locality-Preserving Learning for Expression Recognition (CVPR 2017)
    "rafdb": dict(
        enumerate(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), start=1)
    ),
    # Mollahosseini, Hasani and Mahoor: AffectNet (IEEE TAC 2019); 8 none, 9 uncertain, 10 no face
    "affectnet": dict(
        enumerate(("neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "contempt"))
    ),
    # Lucey et al.: The Extended Cohn-Kanade Dataset (CVPRW 2010)
    "ckplus": dict(
        enumerate(("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise"))
    ),
    # Zhang, Luo, Loy and Tang: From Facial Expression Recognition to Interpersonal Relation Prediction (IJCV 2018)
    "expw": dict(enumerate(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"))),
}

_EXPRESSION_OF_WORD = {word: name for name, words in SYNONYMS.items() for word in words}
# Only in front of a word: 3.0 is a number, not a class named 0.
_NUMBER_BEFORE = re.compile(r"^\d+\s*[-_.:) ]\s*(?=\D)")
_NUMBER = re.compile(r"^[-+]?\d+(\.0+)?$")
_WORDS_AROUND = re.compile(r"[-_ ]*\b(faces?|expressions?|emotions?)\b[-_ ]*")


def find_expression(name: str) -> str | None:
    """The expression that a class name means, one of `EXPRESSIONS`; None for an unknown word and for a number.

    Letter case, full-width forms, blanks, a number in front (``0_angry``, ``1-happy``) and the words face, expression and
    emotion don't count.
    """
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    plain = _NUMBER_BEFORE.sub("", plain).replace("_", " ")
    plain = _WORDS_AROUND.sub("", plain).strip(" -_")
    return _EXPRESSION_OF_WORD.get(plain)


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all class names are numbers, which say nothing about expressions."""
    return bool(names) and all(_NUMBER.match(name.strip()) for name in names)


def other_spellings(names: Sequence[str]) -> str:
    """``anger = angry, happiness = happy`` for the names that are another word for an expression; empty where none is."""
    meanings = ((name, find_expression(name)) for name in names)
    return ", ".join(
        f"{name} = {meaning}" for name, meaning in meanings if meaning not in (None, name)
    )

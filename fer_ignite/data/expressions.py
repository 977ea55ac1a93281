"""Names of the expressions, and their numbering in published data sets.

Two orders are in use and must never be mixed: the label codes of ``fer2013.csv`` and the alphabetical order of class
folders. Everything past a source speaks of names; numbers are positions in the pack's own list of names.
"""

__all__ = ["FER2013_CODES", "FER2013_WORDS", "FERPLUS_COLUMNS", "FERPLUS_TO_FER2013"]

# Position = the value of the csv's `emotion` column.
FER2013_CODES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")

# What else the column holds in copies of the file: the expressions as words.
FER2013_WORDS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}

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

# FER+ says "happiness" where FER2013's folders say "happy"; one name is used here for one expression.
FERPLUS_TO_FER2013 = {"happiness": "happy", "sadness": "sad", "anger": "angry"}

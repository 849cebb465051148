from .answers import extract_answer as extract_answer
from .extract import final_answer as final_answer
from .extract import split_thinking as split_thinking
from .verdict import Verdict as Verdict
from .verdict import answer_kind as answer_kind
from .verdict import verify_many as verify_many

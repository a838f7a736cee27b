"""The words that people name columns with, by what stands in them; the likeliest first."""

from __future__ import annotations

Words = tuple[str, ...]
PROMPTS: Words = (
    "prompt",
    "question",
    "query",
    "instruction",
    "q",
    "request",
    "ask",
    "task",
    "problem",
    "post",
)
PROMPTS += ("input", "user", "context", "messages", "conversation", "conversations", "title")
ANSWERS: Words = (
    "response",
    "answer",
    "completion",
    "output",
    "reply",
    "generation",
    "candidate",
    "option",
    "text",
)
BESIDE: Words = ("prompt", "instruction", "input", "question", "query", "context")  # more of a prompt
RANKS: Words = ("rank", "place", "position", "standing")
SCORES: Words = (
    "score",
    "rating",
    "stars",
    "star",
    "votes",
    "vote",
    "points",
    "grade",
    "likes",
    "upvotes",
    "reward",
    "feedback",
    "thumbs",
    "ann",
)
VERDICTS: Words = (
    "winner",
    "verdict",
    "preference",
    "preferred",
    "choice",
    "judgement",
    "judgment",
    "better",
    "best",
)
VERDICTS += ("label", "vote", "selected", "result", "which", "safer")
LABELERS: Words = (
    "annotator",
    "labeler",
    "labeller",
    "worker",
    "rater",
    "judge",
    "reviewer",
    "user",
    "who",
    "person",
)
FLAGS: Words = ("best", "chosen", "selected", "winner", "preferred")
PAIRS = (
    ("chosen", "rejected"),
    ("better", "worse"),
    ("good", "bad"),
    ("best", "worst"),
    ("winner", "loser"),
    ("winning", "losing"),
    ("win", "lose"),
    ("preferred", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "other"),
    ("accepted", "rejected"),
    ("positive", "negative"),
    ("pos", "neg"),
)

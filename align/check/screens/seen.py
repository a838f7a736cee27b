"""What screens look at, of all records of one kind: kept while they are read, in four bytes a word."""

from __future__ import annotations

from dataclasses import dataclass, field

from align.check.screens.characters import hidden_characters, lookalikes
from align.check.screens.corpus import Corpus
from align.check.screens.triggers import Asked
from align.messages import words_of
from align.records import Demonstration, Prompt, Ranking
from align.text import key

_NAMED = 16  # characters of an ID


@dataclass
class Seen:
    """An element a record, in each of the lists."""

    places: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # by which a recipe leaves a record out
    labelers: list[str | None] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    corpus: Corpus = field(default_factory=Corpus)  # of rankings
    asked: Asked = field(default_factory=Asked)  # prompts with the best answer, or the demonstrated one
    hidden: dict[int, list[str]] = field(default_factory=dict)  # by a record's number: characters' names
    lookalikes: dict[int, list[str]] = field(default_factory=dict)  # words

    def add(self, record: Prompt | Demonstration | Ranking, place: str, digest: str) -> None:
        """Take what is needed of a record; digest: its ID."""
        number = len(self.places)
        self.places.append(place)
        self.names.append(f"record:{digest[:_NAMED]}")
        prompt = record.prompt
        turns = [prompt] if isinstance(prompt, str) else [words_of(message) for message in prompt]
        users = turns if isinstance(prompt, str) else [m["content"] for m in prompt if m["role"] == "user"]
        texts = [*turns]
        if isinstance(record, Ranking):
            texts += record.responses
            self.labelers.append(record.labeler)
            self.sources.append(record.source)
            self.corpus.add(key(users[0]), record.responses, record.ranks)
            best = min((rank, i) for i, rank in enumerate(record.ranks) if rank is not None)[1]
            self.asked.add(key(users[0]), users[-1], record.responses[best])
        elif isinstance(record, Demonstration):
            texts.append(record.response)
            self.asked.add(key(users[0]), users[-1], record.response)
        if hidden := [name for text in texts for name in hidden_characters(text)]:
            self.hidden[number] = list(dict.fromkeys(hidden))
        if words := [word for text in texts for word in lookalikes(text)]:
            self.lookalikes[number] = words

"""Instructions: empty ones, placeholders, identifiers, and one sentence for several tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_pipeline.validate.findings import Finding, Where
from data_pipeline.validate.records import Record

_PLACEHOLDER = re.compile(
    r"(todo|tbd|test(ing)?|tasks?|instructions?|prompts?|none|null|nan|n/?a|dummy|placeholder|x{2,}|lorem.*|asdf\w*|"
    r"default|untitled|unknown|description|do something|no instruction|string|text|foo|bar|\?+|\.+|-+)[\s\d_.!]*",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(r"\w+(_\w+)+")


def check_instructions(record: Record) -> Iterator[Finding]:
    where = Where(episode=record.name)
    if not record.texts or not any(text.strip() for text in record.texts):
        unsure = not record.texts and not record.is_unified  # it may stand under a name that only a mapping knows
        yield Finding(
            "note" if unsure else "warning",
            "no_language",
            where,
            "a sentence that says what is done",
            "no instruction under a usual name" if unsure else "the instruction is empty" if record.texts else "none",
            "write one, name another field in `language.fields`, or give `constant`",
        )
        return
    for text in record.texts:
        clean = text.strip()
        if not clean:
            yield Finding("warning", "no_language", where, "phrasings with words", "one is empty", "remove it")
        elif _PLACEHOLDER.fullmatch(clean):
            told = "a sentence that says what is done"
            yield Finding("warning", "placeholder", where, told, f"{clean!r}", "write what the robot does there")
        elif _IDENTIFIER.fullmatch(clean):
            told = f"{clean!r}, which looks like a name"
            yield Finding("note", "placeholder", where, "a sentence", told, "`language: {replace: {_: ' '}}`")

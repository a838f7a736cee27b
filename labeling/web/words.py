"""What stored codes are called on pages. The database, exports and the API have the codes."""

from __future__ import annotations

from labeling.language import N_, gettext

NAMES = {
    # kinds of task, and of label
    "rank": N_("rank"),
    "demonstrate": N_("demonstrate"),
    "correct": N_("correct"),
    "compare": N_("compare"),
    "skip": N_("skip"),
    "withdrawn": N_("withdrawn"),
    # what became of an answer
    "undecided": N_("undecided"),
    "accepted": N_("accepted"),
    "returned": N_("returned"),
    "rejected": N_("rejected"),
    "kept": N_("kept"),
    "replaced": N_("replaced"),
    # roles
    "labeler": N_("labeler"),
    "reviewer": N_("reviewer"),
    "admin": N_("admin"),
    "machine": N_("machine"),
    # calibration
    "passed": N_("passed"),
    "failed": N_("failed"),
    "again": N_("tries again"),
    "waived": N_("works without it"),
    # who speaks in a prompt
    "user": N_("Person"),
    "assistant": N_("Assistant"),
    "system": N_("Instructions"),
    "tool": N_("Tool"),
    "tools": N_("Tools"),
    # what the log is about, and its details
    "label": N_("answer"),
    "task": N_("task"),
    "person": N_("person"),
    "guideline": N_("guideline"),
    "records": N_("records"),
    "tasks": N_("tasks"),
    "known": N_("known"),
    "labels": N_("labels"),
    "version": N_("version"),
    "of": N_("of"),
    "detail": N_("detail"),
    "role": N_("role"),
    "kind": N_("kind"),
    "form": N_("form"),
    # what was done, in the log
    "opened an account again": N_("opened an account again"),
    "made a link to reset a password": N_("made a link to reset a password"),
    "made a new token": N_("made a new token"),
    "renamed": N_("renamed"),
    "erased a person": N_("erased a person"),
    "changed the guideline": N_("changed the guideline"),
    "calibration: again": N_("calibration: again"),
    "calibration: waived": N_("calibration: waived"),
    "accepted an answer": N_("accepted an answer"),
    "returned an answer": N_("returned an answer"),
    "rejected an answer": N_("rejected an answer"),
    "kept an answer": N_("kept an answer"),
    "added a file": N_("added a file"),
    "added tasks": N_("added tasks"),
    "tasks: hide": N_("tasks: hide"),
    "tasks: show": N_("tasks: show"),
    "tasks: requeue": N_("tasks: requeue"),
    "tasks: delete": N_("tasks: delete"),
    "tasks: priority": N_("tasks: priority"),
    "tasks: overlap": N_("tasks: overlap"),
    "tasks: assign": N_("tasks: assign"),
    "made a machine's account": N_("made a machine's account"),
    "invited somebody": N_("invited somebody"),
    "closed an account": N_("closed an account"),
    "changed a role": N_("changed a role"),
    "changed skills and languages": N_("changed skills and languages"),
    "exported records": N_("exported records"),
    "joined": N_("joined"),
}


def named(code: str) -> str:
    """What a code is called; one that isn't known, as a role in somebody's prompt, is itself."""
    return gettext(NAMES[code]) if code in NAMES else code

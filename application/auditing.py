"""All that an auditor asks with."""

from dataclasses import dataclass

from application.audit import AuditLog
from application.audit_questions import Questions
from application.past import Pasts


@dataclass(frozen=True)
class Audit:
    """The log, searched; conversations as they were; and the questions that auditors ask most."""

    log: AuditLog
    pasts: Pasts
    questions: Questions

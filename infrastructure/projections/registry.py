"""Every read model there is. A new one is a file beside this one and a line here."""

from collections.abc import Sequence
from typing import Final

from domain.errors import MinutebookError
from infrastructure.projections.agent_activity import AgentActivity
from infrastructure.projections.conversation_list import ConversationList
from infrastructure.projections.pending_approvals import PendingApprovals
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.requests import Requests
from infrastructure.projections.transcript import Transcript
from infrastructure.projections.usage import UsageByDay

READ_MODELS: Final[tuple[ReadModel, ...]] = (
    ConversationList(),
    Transcript(),
    PendingApprovals(),
    AgentActivity(),
    UsageByDay(),
    Requests(),
)


class UnknownReadModelError(MinutebookError):
    """There is no read model {name}; there are {known}."""

    code = "unknown_read_model"


def chosen(names: Sequence[str]) -> list[ReadModel]:
    """Return the read models of these names, all where none is named. Raises `UnknownReadModelError`."""
    models = {model.name: model for model in READ_MODELS}
    for name in names:
        if name not in models:
            raise UnknownReadModelError(name=name, known=", ".join(models))
    return [models[name] for name in dict.fromkeys(names)] or list(READ_MODELS)

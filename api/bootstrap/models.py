"""The agents and the models that answer for them, as the operator set them."""

from api.settings import Settings, SettingsError
from application.agents import AgentRoster
from application.ports import Limits
from infrastructure.agents_file import AgentsFileError, load_agents
from infrastructure.models import build_models
from infrastructure.models.demo import DemoModel
from infrastructure.models.router import ModelRouter, ModelSettingError


def check_settings(settings: Settings) -> None:
    """Find what is wrong with the agents and the models before anything starts. Raises `SettingsError`."""
    router_of(settings, roster_of(settings))


def roster_of(settings: Settings) -> AgentRoster:
    """Return the agents. Raises `SettingsError`."""
    try:
        return load_agents(settings.agents)
    except AgentsFileError as error:
        raise SettingsError(str(error)) from None


def router_of(settings: Settings, roster: AgentRoster) -> ModelRouter:
    """Return the default model and those that the agents name. Raises `SettingsError`.

    Blocks for a moment where a provider is named: it reads certificates and imports libraries.
    """
    key = settings.model_api_key.get_secret_value() if settings.model_api_key else None
    try:
        return build_models(
            settings.model,
            [profile.model for profile in roster.profiles],
            base_url=settings.model_base_url,
            api_key=key,
            timeout_s=settings.model_timeout_s,
            answer_bytes=settings.max_answer_bytes,
            demo=DemoModel(settings.demo_delay_s),
        )
    except ModelSettingError as error:
        raise SettingsError(str(error)) from None


def limits_of(settings: Settings) -> Limits:
    """Return the bounds a turn keeps."""
    return Limits(
        switches=settings.max_switches,
        universal_switches=settings.max_universal_switches,
        model_calls=settings.max_model_calls,
        message_bytes=settings.max_message_bytes,
        answer_bytes=settings.max_answer_bytes,
        turn_s=settings.max_turn_s,
        busy_wait_s=settings.busy_wait_s,
        view_tokens=settings.view_tokens,
    )

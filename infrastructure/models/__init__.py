"""The models: the demo, the providers', and the router between them."""

from collections.abc import Iterable

from infrastructure.models.demo import DemoModel
from infrastructure.models.router import DEMO, ModelRouter


def build_models(
    default: str = DEMO,
    others: Iterable[str | None] = (),
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 120.0,
    answer_bytes: int = 16 * 1024 * 1024,
    demo: DemoModel | None = None,
) -> ModelRouter:
    """Build the models of a server: the default and those its agents name.

    Raises `ModelSettingError` where one of them cannot be used. `base_url` and `api_key` are for `openai:`
    models; the other providers read their own environment variables. `timeout_s` is the longest silence of a
    provider, in seconds; `answer_bytes` is how much of calls and thoughts an answer may hold.
    """
    demo = demo or DemoModel()
    names = {default, *others} - {DEMO, None, ""}
    if not names:
        return ModelRouter(default, demo)
    # The providers' libraries take a second to import; a server with the demo alone starts without them.
    from infrastructure.models.providers import ProviderModels

    providers = ProviderModels(
        base_url=base_url, api_key=api_key, timeout_s=timeout_s, answer_bytes=answer_bytes
    )
    for name in sorted(filter(None, names)):
        providers.check(name)
    return ModelRouter(default, demo, providers)

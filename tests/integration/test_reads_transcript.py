"""The transcript from either end, the life of its calls, and the search over all of them."""

from typing import Any

from tests.reading import NAMED, asks, caught_up, happen, reader, says
from tests.serving import serving, serving_reads
from tests.unit.commands import Command

PATH = "/conversations/c1/messages"


def texts(page: dict[str, Any]) -> list[str]:
    return [entry["text"] for entry in page["entries"]]


async def test_a_transcript_is_paged_from_either_end_and_goes_on_where_it_ended(database_url: str) -> None:
    await happen(database_url, "ada", "c1", *(says(f"text {n}", n) for n in range(7)))
    await caught_up(database_url)
    async with serving(database_url, **NAMED) as server:
        ada = reader(server)
        kinds = {entry["kind"] for entry in (await ada.get(PATH))["entries"]}
        assert kinds == {"message", "switch"}
        every = (await ada.get(PATH))["entries"]
        first = await ada.get(PATH, limit=3)
        assert (first["entries"], first["more"]) == (every[:3], True)
        second = await ada.get(PATH, limit=3, after=first["last"])
        assert (second["entries"], second["more"]) == (every[3:6], True)
        newest = await ada.get(PATH, limit=3, order="desc")
        assert (newest["entries"], newest["more"]) == (every[-1:-4:-1], True)
        older = await ada.get(PATH, limit=50, order="desc", before=newest["first"])
        assert (older["entries"], older["more"]) == (every[-4::-1], False)
        between = await ada.get(PATH, after=first["last"], before=newest["first"])
        assert between["entries"] == every[3:-3]
        nothing = await ada.get(PATH, after=newest["last"])
        assert nothing["entries"] == []
        assert (nothing["first"], nothing["last"], nothing["more"]) == (None, newest["last"], False)
        before = {"order": "desc", "before": first["first"]}
        nothing = await ada.get(PATH, **before)
        assert (nothing["entries"], nothing["first"], nothing["last"]) == ([], first["first"], None)


async def test_who_asks_for_what_came_meanwhile_may_pass_last_on_also_from_an_empty_page(
    database_url: str,
) -> None:
    async with serving_reads(database_url) as server:
        local = reader(server)
        end = (await server.client.say("hello", conversation_id="c1"))[-1].data
        page = await local.get(PATH, min_position=end["last_position"])
        for _ in range(2):
            page = await local.get(PATH, after=page["last"])
            assert page["entries"] == []
        end = (await server.client.say("again", conversation_id="c1"))[-1].data
        page = await local.get(PATH, after=page["last"], min_position=end["last_position"])
        assert page["entries"][0]["text"] == "again"


async def test_a_call_tells_who_decided_what_and_what_came_of_it(database_url: str) -> None:
    big = {"b": 10**30, "a": [1, 1.0, None, "Ōsaka"]}
    decided = ("decide_call", ("call-1", "edit", {"path": "b"}, "not a"))
    result = ("receive_tool_result", ("call-1", big, None))
    await happen(database_url, "ada", "c1", asks("call-1", {"path": "a"}), decided, result)
    await caught_up(database_url)
    async with serving(database_url, **NAMED) as server:
        (entry,) = [one for one in (await reader(server).get(PATH))["entries"] if one["kind"] == "call"]
    detail = entry["detail"]
    assert (detail["tool"], detail["arguments"], detail["status"]) == (
        "write_file",
        {"path": "a"},
        "answered",
    )
    decision, outcome = detail["decision"], detail["outcome"]
    assert (decision["decision"], decision["feedback"], decision["by"]) == ("edit", "not a", "user:ada")
    assert (decision["arguments_before"], decision["arguments_after"]) == ({"path": "a"}, {"path": "b"})
    assert outcome["result"] == big
    assert list(outcome["result"]) == ["b", "a"]  # as it was given, to the order of the keys
    assert [type(item) for item in outcome["result"]["a"]] == [int, float, type(None), str]
    assert entry["position"] < decision["position"] < outcome["position"] == entry["changed_position"]


async def test_words_are_found_in_all_conversations_newest_first(database_url: str) -> None:
    for number in range(5):
        await happen(database_url, "ada", f"c{number}", says(f"The Flight to Lyon, number {number}"))
    await happen(database_url, "bob", "bobs", says("a flight of his own"))
    await happen(database_url, "ada", "late", says("<b>no flight</b> at all, never; and a ship"))
    await caught_up(database_url)
    async with serving(database_url, **NAMED) as server:
        ada = reader(server)

        async def found(q: str) -> list[str]:
            hits = await ada.all_pages("/messages/search", "hits", q=q, limit=2)
            positions = [hit["position"] for hit in hits]
            assert positions == sorted(positions, reverse=True)
            return [hit["conversation_id"] for hit in hits]

        assert await found("FLIGHT") == ["late", "c4", "c3", "c2", "c1", "c0"]
        assert await found("flight lyon") == ["c4", "c3", "c2", "c1", "c0"]
        assert await found('"number 3"') == ["c3"]
        assert await found("flight -lyon") == ["late"]
        assert await found("ship or 1") == ["late", "c1"]
        assert await found("lyo") == []
        for odd in ('"', "& | !", ":*", "()", "' or 1=1", "-", "%"):
            assert await found(odd) == []
        (hit,) = (await ada.get("/messages/search", q="ship never"))["hits"]
        assert [piece["text"] for piece in hit["highlight"] if piece["match"]] == ["never", "ship"]
        assert "".join(piece["text"] for piece in hit["highlight"]) == "flight  at all, never; and a ship"


async def test_a_plan_is_found_by_its_goal_and_its_steps(database_url: str) -> None:
    task = {"id": "s1", "description": "measure twice", "agent": "ask", "depends_on": []}
    plan: Command = ("propose_plan", ("p1", "a shelf", [task], "architect"))
    await happen(database_url, "ada", "c1", plan)
    await caught_up(database_url)
    async with serving(database_url, **NAMED) as server:
        for words in ("shelf", "measure twice"):
            (hit,) = (await reader(server).get("/messages/search", q=words))["hits"]
            assert (hit["kind"], hit["conversation_id"]) == ("plan", "c1")


async def test_the_largest_text_there_can_be_is_kept_whole_and_found_by_its_beginning(
    database_url: str,
) -> None:
    words = [f"{n:x}-{n * 7919:x}.{n:o}" for n in range(70_000)]  # every word another one, and in parts
    texts_ = [
        "needle " + " ".join(words)[: 1024 * 1024],
        "needle " + "日本" * 170_000,
        "needle " + "x" * 1_000_000,
    ]
    for number, text in enumerate(texts_):
        await happen(database_url, "ada", f"c{number}", says(text))
    await caught_up(database_url)
    async with serving(database_url, **NAMED) as server:
        hits = (await reader(server).get("/messages/search", q="needle"))["hits"]
        assert [hit["conversation_id"] for hit in hits] == ["c2", "c1", "c0"]
        for number, text in enumerate(texts_):
            assert texts(await reader(server).get(f"/conversations/c{number}/messages"))[0] == text

"""One story, as a person lives it in the console, with every path in it."""

from tests.browser.chromium import Browser
from tests.browser.story import Console
from tests.serving import ServerProcess


def test_calls_are_approved_edited_rejected_and_answered(console: Console) -> None:
    page = console.page
    console.say("write hello.txt")
    console.wait("needs your decision")
    console.wait_state("awaiting decision", "coder")
    assert console.transcript() == [
        "Started by local",
        "orchestrator is on",
        "local: write hello.txt",
        "orchestrator: I hand over to coder.",
        "orchestrator hands over to coder: orchestrator has no tool write_file",
        "coder: I call write_file.",
        "[write_file: needs your decision]",
    ]
    console.click("Approve")
    console.answer('{"bytes": 12345678901234567890}')
    console.wait("write_file is done", "12345678901234567890")
    console.wait_state("idle")

    console.say("delete old.txt")
    console.wait("delete_file")
    console.click("Edit…")
    console.fill('{"path": ')
    console.click("Approve with these")
    console.wait("This is not JSON")
    console.fill("[1]")
    console.click("Approve with these")
    console.wait("Arguments are a JSON object")
    console.fill('{"path": "older.txt"}')
    console.click("Approve with these")
    console.wait("edited by local", "Arguments before", "older.txt")
    console.click("Report an error…")
    console.fill("No such file.")
    console.click("Send error")
    console.wait("answered with an error", "delete_file did not work")

    console.say("run make clean")
    console.wait("execute_command")
    console.click("Reject…")
    console.fill("Not on a Friday.")
    console.click("Reject")
    console.wait("rejected by local: “Not on a Friday.”", "I leave execute_command alone")
    console.wait_state("idle")

    before = console.transcript()
    page.reload()
    console.wait("I leave execute_command alone")
    assert console.transcript() == before
    assert [line for line in before if line.startswith("[")] == [
        "[write_file: answered]",
        "[delete_file: answered with an error]",
        "[execute_command: rejected]",
    ]
    assert page.problems == []


def test_three_calls_are_decided_and_answered_side_by_side(browser: Browser, server: ServerProcess) -> None:
    console = Console(browser.page(), server.url)
    console.open()
    console.say("coder: three files")
    console.wait("I call write_file 3 times")
    cards = "document.querySelectorAll('.card.call[data-status=\"waiting\"]').length"
    console.page.wait(f"{cards} === 3")
    console.page.run("document.querySelectorAll('.card.call .primary').forEach((one) => one.click())")
    console.page.wait(f"{cards} === 0")
    for _ in range(3):
        open_calls = console.page.run("document.querySelectorAll('[data-status=\"runnable\"]').length")
        console.answer("written")
        console.page.wait(f"document.querySelectorAll('[data-status=\"runnable\"]').length < {open_calls}")
    console.wait("All 3 calls are answered")
    assert console.transcript().count("[write_file: answered]") == 3
    assert console.page.problems == []


def test_a_plan_is_sent_back_approved_and_carried_out(console: Console) -> None:
    page = console.page
    console.say("plan a garden")
    console.wait("Plan, version 1")
    console.wait_state("plan in review", "architect")
    console.click("Modify…")
    console.click("Send back")
    console.wait("Say what should change.")
    console.fill("with a pond")
    console.click("Send back")
    console.wait("Plan, version 2", "Work in what you said: with a pond", "Feedback: “with a pond”")
    console.click("Approve the plan")
    console.wait_state("plan in execution", "ask")
    console.answer("# Garden")
    console.wait_state("plan in execution", "coder")
    console.click("Approve")
    console.answer("written")
    console.wait("completed", "Done: Work in what you said: with a pond")
    console.wait_state("idle", "architect")
    lines = console.transcript()
    assert "[Plan, version 1: sent back]" in lines
    assert "[Plan, version 2: completed]" in lines
    assert page.texts(".card.plan[data-status=completed] .steps .vh") == ["done:"] * 4
    done = 'document.querySelectorAll(\'.card.plan[data-status="completed"] li[data-status="done"]\').length'
    assert page.run(done) == 4

    console.say("plan a desert")
    console.wait("a desert")
    console.click("Reject the plan")
    page.wait(
        "document.querySelector('.card.plan[data-status=\"rejected\"]')?.innerText.includes('a desert')"
    )
    console.wait_state("idle")
    before = console.transcript()
    page.reload()
    console.wait("a desert")
    console.wait_state("idle")
    assert console.transcript() == before
    assert page.problems == []


def test_the_agent_is_switched_the_conversation_renamed_archived_and_reopened(console: Console) -> None:
    page = console.page
    page.click("#agent")
    page.click("#agents label:has([value=ask])")
    page.click("#switch .primary")
    console.say("hello")
    console.wait("You said: hello", "ask is on")
    page.click("#agent")
    page.click("#agents label:has([value=debug])")
    page.click("#reason")
    page.write("it fails")
    page.press("Enter")
    console.wait("ask hands over to debug: it fails")
    console.wait_state("idle", "debug")
    console.click("Rename")
    page.wait("document.querySelector('#naming').open")
    page.run("document.querySelector('#name').select()")
    page.write("A failing hello")
    page.press("Enter")
    page.wait_text("A failing hello", "#title")
    page.wait_text("A failing hello", "#conversations")
    console.click("Archive")
    console.wait_state("archived")
    console.say("are you there?")
    page.wait_text("The conversation is archived", "#problem")
    assert page.run("document.querySelector('#say').value") == "are you there?"
    console.click("Reopen")
    console.wait_state("idle")
    # Refused with 409 once, as it should be; that much the browser says, and nothing else.
    assert [one for one in page.problems if "409" not in one] == []

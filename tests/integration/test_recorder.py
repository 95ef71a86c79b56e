"""The library's own test cases for recorders, and an application of the library on our log."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import ApplicationRecorder, StoredEvent, Tracking
from eventsourcing.popo import POPOFactory, POPOTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)
from eventsourcing.utils import get_topic

from infrastructure.postgres.recorder import PostgresRecorder


class _OnTheLog:
    @pytest.fixture(autouse=True)
    def recorder_on_a_fresh_log(self, database_url: str) -> Iterator[None]:
        self._recorder = PostgresRecorder(database_url, max_size=16)
        yield
        self._recorder.close()

    def create_recorder(self) -> PostgresRecorder:
        return self._recorder


class TestApplicationRecorder(_OnTheLog, ApplicationRecorderTestCase[PostgresRecorder]):
    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestNonInterleaving(_OnTheLog, NonInterleavingNotificationIDsBaseCase):
    pass


del ApplicationRecorderTestCase, NonInterleavingNotificationIDsBaseCase  # they would be collected themselves


class Dog(Aggregate):
    @event("Registered")
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


class Factory(POPOFactory):
    """The library's in-memory factory, with our log for the events."""

    def application_recorder(self) -> ApplicationRecorder:
        self._recorder = PostgresRecorder(self.env["DATABASE_URL"])
        return self._recorder

    def close(self) -> None:
        self._recorder.close()


class DogSchool(Application[UUID]):
    name = "dogschool"


class Tricks(Projection[POPOTrackingRecorder]):
    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        self.view.insert_tracking(tracking)
        SEEN.append(type(domain_event).__qualname__)


SEEN: list[str] = []


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    return {
        "PERSISTENCE_MODULE": get_topic(Factory),
        "TRICKS_PERSISTENCE_MODULE": get_topic(POPOFactory),
        "DATABASE_URL": database_url,
    }


def test_an_application_of_the_library_runs_on_the_log(env: dict[str, str]) -> None:
    with DogSchool(env) as school:
        dog = Dog("Fido")
        dog.add_trick("roll over")
        school.save(dog)
        dog.add_trick("play dead")
        recordings = school.save(dog)
        again: Dog = school.repository.get(dog.id)
    assert again.tricks == ["roll over", "play dead"]
    assert [recording.notification.id for recording in recordings] == [3]


def test_a_projection_of_the_library_follows_the_log(env: dict[str, str]) -> None:
    SEEN.clear()
    with ProjectionRunner(
        application_class=DogSchool, projection_class=Tricks, view_class=POPOTrackingRecorder, env=env
    ) as runner:
        dog = Dog("Fido")
        runner.app.save(dog)
        dog.add_trick("roll over")
        (recording,) = runner.app.save(dog)
        runner.wait(recording.notification.id, timeout=5)
    assert SEEN == ["Dog.Registered", "Dog.TrickAdded"]


def test_ids_that_are_no_uuids_come_back_as_they_are(database_url: str) -> None:
    recorder = PostgresRecorder(database_url, originator_ids="text")
    stream = str(uuid4())
    recorder.insert_events([StoredEvent(stream, 1, "topic", b"")])
    (notification,) = recorder.select_notifications(1, 10)
    assert notification.originator_id == stream
    recorder.close()

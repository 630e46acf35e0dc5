"""Topics and topic filters."""

from __future__ import annotations

from tests.conformance import wire
from tests.conformance.scenes import invalid
from tests.conformance.suite import Subject, statement
from tests.conformance.wire import Filter


@statement("3.1.1:MQTT-4.7.1-2", "5:MQTT-4.7.1-1")
def test_a_multi_level_wildcard_is_the_last_level_and_all_of_it(broker: Subject) -> None:
    t = broker.topic
    subscriber, publisher = broker.client("s"), broker.client("p")
    assert subscriber.subscribe(f"{t}/#").reason == 0
    for topic in (t, f"{t}/", f"{t}/a/b"):
        publisher.publish(topic)
        assert subscriber.message().topic == topic
    invalid(broker, f"{t}/a#", f"{t}/#/a", f"{t}/#a", "##")


@statement("3.1.1:MQTT-4.7.1-3", "5:MQTT-4.7.1-2")
def test_a_single_level_wildcard_is_a_level_of_its_own(broker: Subject) -> None:
    t = broker.topic
    subscriber, publisher = broker.client("s"), broker.client("p")
    assert subscriber.subscribe(f"+/{t}/+/a/+").reason == 0
    for topic in (f"x/{t}/y/a/z", f"/{t}//a/"):
        publisher.publish(topic)
        assert subscriber.message().topic == topic
    for topic in (f"x/{t}/y/a", f"x/{t}/y/a/z/z", f"x/{t}/y/b/z"):
        publisher.publish(topic)
    subscriber.quiet()
    invalid(broker, f"{t}/a+", f"{t}/+a/b", "++")


@statement("3.1.1:MQTT-4.7.2-1", "5:MQTT-4.7.2-1")
def test_a_leading_wildcard_does_not_match_topics_that_begin_with_a_dollar(broker: Subject) -> None:
    t = broker.topic
    subscriber, named, publisher = broker.client("s"), broker.client("n"), broker.client("p")
    subscriber.subscribe(f"+/{t}/#", *[f"$share/group/+/{t}/#"] * broker.v5)
    named.subscribe(f"${t}/{t}/#")
    publisher.publish(f"${t}/{t}/a")
    assert named.message().topic == f"${t}/{t}/a"
    subscriber.quiet()
    everything = broker.client("e")
    everything.subscribe("#")
    publisher.publish(f"${t}/{t}/b")
    publisher.publish(f"{t}/end")
    topics = []
    while (topic := everything.message().topic) != f"{t}/end":
        topics.append(topic)
    assert not [topic for topic in topics if topic.startswith("$")]


@statement("3.1.1:MQTT-4.7.3-1", "5:MQTT-4.7.3-1")
def test_topics_and_filters_have_at_least_one_character(broker: Subject) -> None:
    client = broker.client("c")
    client.send(wire.publish("", broker.version))
    client.refused(0x81, 0x82, 0x90)
    invalid(broker, "")


@statement("3.1.1:MQTT-4.7.3-2", "5:MQTT-4.7.3-2")
def test_a_null_character_in_topic_or_filter_ends_the_connection(broker: Subject) -> None:
    for number, packet in enumerate(
        (
            wire.publish("a\0", broker.version),
            wire.subscribe([Filter("a/\0")], broker.version),
            wire.unsubscribe(["\0/a"], broker.version),
        )
    ):
        client = broker.client(f"c{number}")
        client.send(packet)
        client.refused(0x81, 0x82, 0x8F, 0x90)


@statement("3.1.1:MQTT-4.7.3-4", "5:MQTT-4.7.3-4")
def test_topics_are_matched_as_they_are(broker: Subject) -> None:
    t = broker.topic
    subscriber, publisher = broker.client("s"), broker.client("p")
    composed, decomposed = f"{t}/\u00e9", f"{t}/e\u0301"
    subscriber.subscribe(composed, f"{t}/a", f"{t}//b", f"{t} c")
    for topic in (decomposed, f"{t}/A", f"{t}/a/", f"{t}/b", f"{t}c", f"/{t}/a", f"{t}/./a"):
        publisher.publish(topic)
    subscriber.quiet()
    for topic in (composed, f"{t}/a", f"{t}//b", f"{t} c"):
        publisher.publish(topic)
        assert subscriber.message().topic == topic

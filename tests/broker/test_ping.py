"""When a broker is asked, and when it is given up: a law of counts, without sockets and clocks."""

from __future__ import annotations

from broker.ping import PATIENCE, Ping

AHEAD = 10_000  # where a PINGREQ ends that waits behind an upload


def asked(behind: int) -> Ping:
    ping = Ping()
    assert [ping.look(1, 100, 50) for _ in range(3)] == [False, False, True]
    ping.ask(behind)
    return ping


def test_a_broker_is_lost_only_when_nothing_moves_in_either_direction() -> None:
    ping = asked(AHEAD)
    for sent in range(200, 200 + 3 * PATIENCE):  # an upload goes on
        assert not ping.look(1, sent, 50)
        assert not ping.lost
    for _ in range(PATIENCE - 1):
        ping.look(1, sent, 50)
    assert not ping.lost
    ping.look(1, sent, 50)
    assert ping.lost
    ping.look(1, sent, 51)
    assert not ping.lost


def test_what_goes_out_behind_an_unanswered_question_is_no_sign_of_life() -> None:
    ping = asked(102)
    ping.look(1, 102, 50)
    for number in range(PATIENCE):
        assert not ping.lost
        ping.look(number, 200 + number, 50)
    assert ping.lost


def test_with_its_answer_a_question_is_over() -> None:
    ping = asked(102)
    ping.answered()
    for number in range(3 * PATIENCE):
        due = ping.look(number, 200 + number, 50)
        assert not ping.lost
    assert due

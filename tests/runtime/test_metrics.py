import urllib.request

from pagewire_runtime import metrics

calls = metrics.counter("runtime_test_calls", "For this test.", ["kind"])


def test_what_is_counted_stands_in_the_text() -> None:
    calls.labels("a").inc(2)

    assert b'runtime_test_calls_total{kind="a"} 2.0' in metrics.render()


def test_the_process_itself_is_measured() -> None:
    assert b"process_resident_memory_bytes" in metrics.render()


def test_the_text_is_served_where_told_and_nowhere_else() -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with metrics.expose("127.0.0.1:0") as port, metrics.expose(None) as nowhere:
        text = opener.open(f"http://127.0.0.1:{port}/metrics", timeout=30).read()

    assert nowhere is None
    assert b"process_resident_memory_bytes" in text

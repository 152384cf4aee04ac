"""quixstreams, with a decision by `limits`: its own state is per key, and the limit is one for all keys."""

import tempfile

from quixstreams import Application

from bench.peers.options import Options, Window, parse


def main(options: Options) -> None:
    window = Window(options.limit)
    with tempfile.TemporaryDirectory() as state:
        app = Application(
            options.bootstrap,
            consumer_group=options.group,
            auto_offset_reset="earliest",
            auto_create_topics=False,
            state_dir=state,
            consumer_extra_config={"fetch.queue.backoff.ms": 5},
        )
        raw = {f"{part}_{kind}": "bytes" for part in ("key", "value") for kind in ("serializer", "deserializer")}
        admitted, delayed = app.topic(options.admitted, **raw), app.topic(options.delayed, **raw)
        requests = app.dataframe(app.topic(options.requests, **raw))
        requests = requests.set_headers(
            lambda _value, _key, _timestamp, headers: [
                *headers,
                ("decision", b"admitted" if window.admits() else b"delayed"),
            ]
        )
        requests.to_topic(
            lambda _value, _key, _timestamp, headers: admitted if headers[-1][1] == b"admitted" else delayed
        )
        app.run()


if __name__ == "__main__":
    main(parse())

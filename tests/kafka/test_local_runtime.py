"""What the local broker stands on: the jars as locked, a Java that will do, properties that Java reads as meant."""

import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gate.errors import GateError
from gate.kafka.local import config, jars, jvm
from gate.kafka.local.cache import cache_folder
from gate.kafka.local.runtime import Runtime

SITE = config.Site(1, 1024, 1025)


@pytest.fixture(scope="module")
def runtime():
    return Runtime.provide(print)


@pytest.fixture
def from_cache(runtime):
    """A way to fetch that copies from the cache of this machine, and counts."""

    def fetch(wanted, folder, _progress):
        for jar in wanted:
            shutil.copy(runtime.cache / "jars" / jar.name, folder)
            fetch.names.append(jar.name)

    fetch.names = []
    return fetch


def silent(_message):
    pass


def test_the_lock_names_each_jar_once_and_the_pinned_kafka():
    locked = jars.lock()
    assert len({jar.name for jar in locked}) == len(locked)
    assert {jar.version for jar in locked if jar.group == "org.apache.kafka"} == {jars.KAFKA_VERSION}
    assert all(len(jar.sha256) == 64 for jar in locked)


def test_only_what_is_missing_or_damaged_is_fetched(from_cache, tmp_path):
    folder = tmp_path / "jars"
    paths = jars.provide(folder, silent, [("cache", from_cache)])
    assert [path.name for path in paths] == from_cache.names
    from_cache.names.clear()
    with paths[3].open("r+b") as jar:
        jar.write(b"?")
    paths[5].unlink()
    assert jars.provide(folder, silent, [("cache", from_cache)]) == paths
    assert from_cache.names == [paths[3].name, paths[5].name]
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["jars"]


def test_a_jar_that_is_not_the_locked_one_is_refused(from_cache, tmp_path):
    def altered(wanted, folder, progress):
        from_cache(wanted, folder, progress)
        with (folder / wanted[0].name).open("ab") as jar:
            jar.write(b"\0")

    with pytest.raises(GateError, match=f"{jars.lock()[0].name} as fetched with mirror is not the jar"):
        jars.provide(tmp_path / "jars", silent, [("mirror", altered)])
    assert not list((tmp_path / "jars").iterdir())


def test_the_next_way_is_tried_and_the_last_failure_names_all(from_cache, tmp_path):
    def broken(_wanted, _folder, _progress):
        raise jars.FetchError("no route to host")

    assert jars.provide(tmp_path / "a", silent, [("mvn", broken), ("cache", from_cache)])
    with pytest.raises(GateError, match="mvn: no route to host; jgo: no route to host"):
        jars.provide(tmp_path / "b", silent, [("mvn", broken), ("jgo", broken)])


def test_two_that_fill_the_cache_at_once_fetch_once(from_cache, tmp_path):
    together = threading.Barrier(2)

    def fill():
        together.wait()
        return jars.provide(tmp_path / "jars", silent, [("cache", from_cache)])

    with ThreadPoolExecutor(2) as pool:
        one, other = [future.result() for future in [pool.submit(fill), pool.submit(fill)]]
    assert one == other
    assert len(from_cache.names) == len(jars.lock())


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["mvn", "jgo"])
def test_each_tool_delivers_the_locked_jar(tool, tmp_path):
    fetch = dict(jars._fetchers()).get(tool)
    if fetch is None:
        pytest.skip(f"{tool} is not installed")
    smallest = next(jar for jar in jars.lock() if jar.artifact == "kafka-group-coordinator-api")
    fetch((smallest,), tmp_path, silent)
    assert smallest.is_at(tmp_path / smallest.name)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["mvn", "jgo"])
def test_each_tool_says_what_it_could_not_find(tool, tmp_path):
    fetch = dict(jars._fetchers()).get(tool)
    if fetch is None:
        pytest.skip(f"{tool} is not installed")
    with pytest.raises(jars.FetchError, match=r"kafka_2\.13.*0\.0\.1"):
        fetch((jars.Jar("0" * 64, "org.apache.kafka", "kafka_2.13", "0.0.1"),), tmp_path, silent)


def java_that_says(folder, version):
    executable = folder / "bin" / "java"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    executable.chmod(0o755)
    return executable


@pytest.mark.parametrize(("said", "version"), [("17.0.15", 17), ("21", 21), ("25-ea", 25)])
def test_java_home_comes_first(said, version, tmp_path, monkeypatch):
    executable = java_that_says(tmp_path, said)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert (jvm.find().executable, jvm.find().version) == (executable, version)


def test_an_old_java_is_passed_over(tmp_path, monkeypatch):
    old, new = java_that_says(tmp_path / "old", "1.8.0_392"), java_that_says(tmp_path / "new", "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(old.parent.parent))
    monkeypatch.setenv("PATH", str(new.parent), prepend=":")
    assert jvm.find().executable == new


def test_without_java_the_error_says_what_was_found_and_what_to_install(tmp_path, monkeypatch):
    old = java_that_says(tmp_path, "11.0.2")
    monkeypatch.setattr(jvm, "_candidates", lambda: iter([old, tmp_path / "none"]))
    with pytest.raises(GateError, match=f"{old} is Java 11; {tmp_path / 'none'} does not run") as failure:
        jvm.find()
    assert "openjdk-17" in failure.value.hint


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "gate"
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_folder() == Path.home() / ".cache" / "gate"


def test_the_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    tmp_path.joinpath("gate").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(GateError, match=str(tmp_path)) as failure:
        Runtime.provide(silent)
    assert "XDG_CACHE_HOME" in failure.value.hint


def test_two_clusters_share_the_format_but_no_identity(runtime, tmp_path):
    one, other = runtime.format(tmp_path / "a"), runtime.format(tmp_path / "b")
    assert one != other
    assert runtime.format(tmp_path / "a") == one


READ = """
import java.util.Properties;
class Read {
    public static void main(String[] names) throws Exception {
        var properties = new Properties();
        properties.load(System.in);
        for (var name : names) System.out.println(properties.getProperty(name).codePoints().boxed().toList());
    }
}
"""


@pytest.mark.slow
def test_java_reads_the_properties_that_were_meant(runtime, tmp_path):
    if shutil.which("javac") is None:
        pytest.skip("needs a JDK")
    value = "a\\b é \U0001f600 =:#! \t\n end"
    tmp_path.joinpath("Read.java").write_text(READ)
    text = config.server_properties(SITE, [SITE], {"x": value})
    command = [runtime.java.executable, tmp_path / "Read.java", "x", "log.dirs"]
    read = subprocess.run(command, input=text.encode("ascii"), capture_output=True, check=True)
    assert read.stdout.decode().splitlines() == [str([ord(c) for c in text]) for text in (value, "data")]


def test_what_lays_out_the_node_can_not_be_replaced():
    with pytest.raises(ValueError, match=r"sets log\.dirs, node\.id itself"):
        config.server_properties(SITE, [SITE], {"node.id": "2", "log.dirs": "/"})
    assert "num.partitions=7\n" in config.server_properties(SITE, [SITE], {"num.partitions": "7"})


def lines(text):
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(("nodes", "copies", "least"), [(1, "1", "1"), (2, "2", "1"), (3, "3", "2"), (5, "3", "2")])
def test_everything_is_kept_as_often_as_a_cluster_can(nodes, copies, least):
    """With three nodes one of them may be lost; no topic of the broker's own is left out."""
    sites = config.sites(nodes)
    for site in sites:
        said = lines(config.server_properties(site, sites, {}))
        factors = {value for name, value in said.items() if name.endswith("replication.factor")}
        assert (factors, said["node.id"]) == ({copies}, str(site.number))
        assert {v for n, v in said.items() if n.endswith(("min.isr", "min.insync.replicas"))} == {least}
        assert said["controller.quorum.voters"].count("@") == nodes
    ports = [port for site in sites for port in (site.port, site.controller_port)]
    assert len(set(ports)) == 2 * nodes


def test_nodes_of_one_cluster_share_its_id_and_nothing_else(runtime, tmp_path):
    cluster = runtime.format(tmp_path / "1", 1)
    assert runtime.format(tmp_path / "2", 2, cluster) == cluster
    one, other = (lines((tmp_path / number / "meta.properties").read_text()) for number in "12")
    assert (one["node.id"], other["node.id"]) == ("1", "2")
    assert one["directory.id"] != other["directory.id"]


def test_a_free_port_is_not_one_that_the_kernel_gives_to_clients():
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = config.free_port()
    assert port < lowest
    assert config.free_port(taken={port}) != port


def test_a_cluster_id_is_never_taken_for_an_option():
    assert not any(config.new_id().startswith("-") for _ in range(1000))  # one in 64 would be

"""What keeps clients of the MONAI Label app from writing, flooding and blocking it; no server is needed."""

import asyncio
import gzip
import inspect
import threading
import time
import zipfile

import pytest
from tiny_bundle import NAME, edit_json, make_tiny_bundle

from medrestore_monai.label_app.endpoints import close_endpoints, in_thread, is_on, limited, limits_of, serve_in_threads
from medrestore_monai.label_app.options import offered_bundles
from medrestore_monai.label_app.received import check_size
from medrestore_monai.label_app.stores import GuardedStore

WRITES = ["add_image", "remove_image", "save_label", "remove_label", "remove_label_by_tag", "update_label_info"]


class Store:
    """A data store that remembers what was asked of it."""

    def __init__(self):
        self.done = []


def remembering(name):
    return lambda self, *args, **kwargs: self.done.append((name, args, kwargs)) or name


for one in (*WRITES, "get_image_uri"):
    setattr(Store, one, remembering(one))


class Guarded(GuardedStore, Store):
    pass


@pytest.mark.parametrize("name", WRITES)
def test_a_guarded_store_is_only_read(name):
    store = Guarded()
    assert getattr(store, name)("a", tag="b") == name  # for itself, before it is ready
    store.is_guarded = True
    with pytest.raises(PermissionError, match=rf"only read \({name}\); start the server with allow_writes"):
        getattr(store, name)("a", tag="b")
    assert store.done == [(name, ("a",), {"tag": "b"})]
    assert store.get_image_uri("a") == "get_image_uri"


def test_a_guarded_store_keeps_the_results_of_a_batch_in_its_thread_alone():
    store = Guarded()
    store.is_guarded = True
    seen = []
    with store.keeping_results():
        assert store.keeps_results
        assert store.save_label("a") == "save_label"
        other = threading.Thread(target=lambda: seen.append(store.keeps_results))
        other.start()
        other.join()
        with pytest.raises(PermissionError):
            store.remove_image("a")
    assert (store.keeps_results, seen) == (False, [False])
    assert store.update_image_info("a", {}) is None  # MONAI Label notes there which image it has offered


@pytest.mark.parametrize(
    ("conf", "expected"), [({}, (2 << 30, 8 << 30)), ({"largest_upload": "0.5"}, (1 << 29, 8 << 30))]
)
def test_limits_are_in_gib(conf, expected):
    assert limits_of(conf) == expected


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_bad_limits_are_refused(value):
    with pytest.raises(ValueError, match="largest_unpacked must be a number of GiB above 0"):
        limits_of({"largest_unpacked": value})


def test_a_switch_is_off_unless_it_is_true():
    assert [is_on(conf, "x") for conf in ({}, {"x": "false"}, {"x": "True"})] == [False, False, True]
    with pytest.raises(ValueError, match="x must be true or false, got 'yes'"):
        is_on({"x": "yes"}, "x")


def test_sizes_are_capped_packed_and_unpacked(tmp_path):
    plain, packed, archive = (tmp_path / name for name in ("a.nii", "a.nii.gz", "a.zip"))
    plain.write_bytes(bytes(1000))
    packed.write_bytes(gzip.compress(bytes(5_000_000)))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", bytes(3_000_000))
        file.writestr("b.dcm", bytes(2_000_000))
    for path in (plain, packed, archive, tmp_path):
        check_size(path, 1_000_000, 5_000_000)
    with pytest.raises(ValueError, match="has 1000 bytes, more than the 999"):
        check_size(plain, 999, 1)
    for path in (packed, archive):
        with pytest.raises(ValueError, match="unpacks to more than the 4999999 bytes"):
            check_size(path, 1_000_000, 4_999_999)
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is a damaged archive"):
        check_size(packed, 1_000_000, 5_000_000)


async def echo(scope, receive, send):
    """Answer with the number of bytes that arrived."""
    arrived, more = 0, True
    while more:
        message = await receive()
        arrived += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(arrived).encode()})


def asked(app, parts, headers=()):
    """Send a request in parts; return all statuses and bodies."""
    waiting = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})
    answers = []

    async def receive():
        return waiting.pop(0)

    async def send(message):
        answers.append(message.get("status") or message.get("body"))

    asyncio.run(app({"type": "http", "headers": list(headers)}, receive, send))
    return answers, len(waiting)


def test_a_request_is_read_up_to_a_limit():
    app = limited(echo, 10)
    assert asked(app, [b"12345"] * 2) == ([200, b"10"], 0)
    answers, left = asked(app, [b"12345"] * 100)
    assert (answers[0], b"10 bytes" in answers[1], len(answers), left) == (413, True, 2, 98)
    answers, left = asked(app, [b"1"], [(b"content-length", b"11")])
    assert (answers[0], left) == (413, 2)  # nothing was read


async def endpoint(model: str, image: str = "", number: int = 3) -> dict:
    """Work without letting others run, as MONAI Label does."""
    time.sleep(0.2)
    return {"model": model, "image": image, "number": number, "thread": threading.current_thread().name}


def test_a_coroutine_becomes_a_function_with_the_same_parameters():
    plain = in_thread(endpoint)
    assert not inspect.iscoroutinefunction(inspect.unwrap(plain))
    assert inspect.signature(plain) == inspect.signature(endpoint)
    assert plain("a", number=4)["number"] == 4
    assert in_thread(len) is len


@pytest.mark.slow
def test_endpoints_that_are_off_answer_403_and_slow_ones_do_not_block():
    import fastapi
    from starlette.testclient import TestClient

    def made(**options):
        app, router = fastapi.FastAPI(), fastapi.APIRouter()
        for path, methods in (
            ("/datastore/", ["GET", "PUT", "DELETE"]),
            ("/datastore/label", ["GET", "PUT", "DELETE"]),
            ("/session/", ["PUT"]),
            ("/session/{name}", ["GET", "DELETE"]),
            ("/proxy/dicom/wado/{path:path}", ["GET"]),
            ("/info/", ["GET"]),
        ):
            router.add_api_route(path, lambda: "open", methods=methods)
        router.add_api_route("/infer/{model}", endpoint, methods=["POST"])
        app.include_router(router)
        serve_in_threads(app, "/infer/{model}", endpoint, largest=100)
        close_endpoints(app, **options)
        return TestClient(app)

    reads = [("GET", "/datastore/"), ("GET", "/datastore/label"), ("GET", "/session/a"), ("GET", "/info/")]
    writes = [("PUT", "/datastore/"), ("DELETE", "/datastore/"), ("PUT", "/datastore/label"), ("PUT", "/session/")]
    writes += [("DELETE", "/datastore/label"), ("DELETE", "/session/a")]
    proxy = [("GET", "/proxy/dicom/wado/studies/1"), ("GET", "/proxy/dicom/wado/a/../b")]
    for options, opened in (
        ({}, reads),
        ({"allow_writes": True}, [*reads, *writes]),
        ({"allow_proxy": True}, [*reads, *proxy]),
    ):
        with made(**options) as server:
            for method, path in (*reads, *writes, *proxy):
                expected = 200 if (method, path) in opened else 403
                assert server.request(method, path).status_code == expected, (method, path, options)
    with made() as server:
        answer = server.post("/infer/a?image=b&number=7").json()
        assert (answer["model"], answer["image"], answer["number"]) == ("a", "b", 7)
        assert "MainThread" not in answer["thread"]
        assert server.post("/infer/a?number=x").status_code == 422
        assert server.post("/infer/a", content=bytes(101)).status_code == 413
        slow = threading.Thread(target=server.post, args=("/infer/a",))
        began = time.monotonic()
        slow.start()
        time.sleep(0.02)
        assert server.get("/info/").status_code == 200
        assert time.monotonic() - began < 0.15
        slow.join()


@pytest.mark.slow
def test_only_bundles_that_may_run_are_offered(tmp_path, monkeypatch):
    root = make_tiny_bundle(tmp_path / "bundles")
    hostile = make_tiny_bundle(tmp_path / "bundles", "mri_superresolution_restore_rwkv")
    code = "$__import__('pathlib').Path('CANARY').touch()"
    edit_json(hostile / "configs" / "inference.json", lambda config: config.update(initialize=[code]))
    monkeypatch.setenv("MEDRESTORE_BUNDLES", str(root.parent))
    monkeypatch.chdir(tmp_path)
    offered, refused = offered_bundles()
    assert NAME in {bundle.name for bundle in offered}
    assert list(refused) == [hostile.name]
    assert "initialize" in refused[hostile.name]
    with pytest.warns(UserWarning, match="runs as you trust it"):
        offered, refused = offered_bundles(trust_bundle=True)
    assert hostile.name in {bundle.name for bundle in offered}
    assert refused == {}
    assert not (tmp_path / "CANARY").exists()

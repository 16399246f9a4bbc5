"""The inventory plugin aws_iot: against moto, its requests counted; what moto lacks, against a Stubber."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import inventory_loader
from ansible.template import Templar
from botocore.stub import Stubber
from moto.iot.models import FakeThing

from tests.unit.aws_iot import cloud
from tests.unit.aws_server import aws

NAME = "edge_litestream.appliance.aws_iot"
ROOT = Path(__file__).resolve().parents[4]
Parse = Callable[..., InventoryData]


@pytest.fixture
def iot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud(monkeypatch) as client:
        yield client


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the requests of every client that is made from now on."""
    calls: Counter[str] = Counter()
    made = boto3.client

    def client(*args: Any, **more: Any) -> Any:
        one = made(*args, **more)
        one.meta.events.register("before-call.iot", lambda model, **rest: calls.update([model.name]))
        return one

    monkeypatch.setattr(boto3, "client", client)
    return calls


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """Parse a file of the plugin's."""

    def run(flushed: bool = False, **options: Any) -> InventoryData:
        path = tmp_path / "fleet.aws_iot.yml"
        path.write_text(yaml.safe_dump({"plugin": NAME, **options}))
        plugin, data = inventory_loader.get(NAME), InventoryData()
        assert plugin.verify_file(str(path))
        plugin.parse(data, DataLoader(), str(path), cache=not flushed)
        if options.get("cache"):
            plugin.update_cache_if_changed()
        return data

    return run


def a_fleet(iot: Any, number: int) -> None:
    """Devices of two rings; another type's thing, and one without a type."""
    iot.create_thing_type(thingTypeName="lamp")
    for index in range(number):
        attributes = {"ring": str(index % 2), "profile": "tpm2", "region": "eu-central-1"}
        name = f"edge-{index:04}"
        iot.create_thing(
            thingName=name, thingTypeName="edge-litestream", attributePayload={"attributes": attributes}
        )
        iot.add_thing_to_thing_group(thingGroupName="edge-litestream", thingName=name)
    iot.add_thing_to_thing_group(thingGroupName="canary", thingName="edge-0001")
    iot.create_thing(thingName="lamp-1", thingTypeName="lamp")
    iot.create_thing(thingName="bare-1")


def groups(data: InventoryData) -> dict[str, list[str]]:
    return {
        name: sorted(host.name for host in group.hosts) for name, group in data.groups.items() if group.hosts
    }


@pytest.mark.parametrize("mode", ["OFF", "REGISTRY"])
def test_things_are_hosts_with_groups(
    monkeypatch: pytest.MonkeyPatch, iot: Any, parse: Parse, mode: str
) -> None:
    # AWS takes a phrase in quotes, as any text may have to be; moto compares the quotes too.
    matches = FakeThing.matches
    monkeypatch.setattr(FakeThing, "matches", lambda thing, query: matches(thing, query.replace('"', "")))
    a_fleet(iot, 3)
    iot.update_indexing_configuration(thingIndexingConfiguration={"thingIndexingMode": mode})
    data = parse()
    fleet = ["edge-0000", "edge-0001", "edge-0002"]
    assert groups(data) == {
        "edge_devices": fleet,
        "edge_litestream": fleet,
        "canary": ["edge-0001"],
        "profile_tpm2": fleet,
        "region_eu_central_1": fleet,
        "ring_0": ["edge-0000", "edge-0002"],
        "ring_1": ["edge-0001"],
    }
    told = data.hosts["edge-0001"].vars
    assert told["thing_attributes"] == {"ring": "1", "profile": "tpm2", "region": "eu-central-1"}
    assert (told["thing_name"], told["thing_type"]) == ("edge-0001", "edge-litestream")
    assert sorted(told["thing_groups"]) == ["canary", "edge-litestream"]


def test_options_choose(iot: Any, parse: Parse) -> None:
    a_fleet(iot, 3)
    data = parse(
        thing_type="",
        thing_groups=["canary"],
        attributes=["ring"],
        group="fleet",
        compose={"ansible_host": "thing_name ~ '.example.com'"},
        keyed_groups=[{"key": "thing_attributes.profile", "prefix": "token"}],
        groups={"odd": "thing_attributes.ring | default('0') == '1'"},
    )
    everyone = ["bare-1", "edge-0000", "edge-0001", "edge-0002", "lamp-1"]
    assert groups(data) == {
        "fleet": everyone,
        "canary": ["edge-0001"],
        "ring_0": ["edge-0000", "edge-0002"],
        "ring_1": ["edge-0001"],
        "token_tpm2": ["edge-0000", "edge-0001", "edge-0002"],
        "odd": ["edge-0001"],
    }
    assert data.hosts["edge-0002"].vars["ansible_host"] == "edge-0002.example.com"


def test_a_thousand_things_are_a_few_requests(
    monkeypatch: pytest.MonkeyPatch, iot: Any, asked: Counter[str], parse: Parse
) -> None:
    a_fleet(iot, 1000)
    assert len(parse().hosts) == 1000
    # moto tells all members of a group at once; AWS 250.
    expected = {
        "GetIndexingConfiguration": 1,
        "ListThings": 4,
        "ListThingGroups": 1,
        "ListThingsInThingGroup": 2,
    }
    assert asked == expected


def searched(page: int, last: bool) -> dict[str, Any]:
    things = [
        {
            "thingName": f"edge-{page:02}{index:02}",
            "thingTypeName": "edge-litestream",
            "thingGroupNames": ["edge-litestream"],
            "attributes": {"ring": "1"},
        }
        for index in range(100)
    ]
    return {"things": things, **({} if last else {"nextToken": f"token-{page}"})}


def test_the_index_is_searched_page_by_page(monkeypatch: pytest.MonkeyPatch, iot: Any, parse: Parse) -> None:
    """Against a Stubber: moto's search knows no pages and no conjunction."""
    client = boto3.client("iot", region_name="eu-central-1")
    monkeypatch.setattr(boto3, "client", lambda *args, **more: client)
    query = 'thingTypeName:"edge-litestream" AND (attributes.ring:1)'
    with Stubber(client) as stub:
        stub.add_response(
            "get_indexing_configuration",
            {"thingIndexingConfiguration": {"thingIndexingMode": "REGISTRY_AND_SHADOW"}},
        )
        for page in range(10):
            token = {"nextToken": f"token-{page - 1}"} if page else {}
            stub.add_response(
                "search_index",
                searched(page, last=page == 9),
                {"queryString": query, "maxResults": 100, **token},
            )
        data = parse(query="attributes.ring:1")
        stub.assert_no_pending_responses()
    assert len(data.hosts) == 1000
    assert len(groups(data)["ring_1"]) == 1000


def test_a_search_without_an_index_is_refused(iot: Any, parse: Parse) -> None:
    with pytest.raises(
        AnsibleParserError, match=r"query is 'attributes.ring:1', but the account has no fleet indexing"
    ):
        parse(query="attributes.ring:1")


def test_a_missing_right_is_named(monkeypatch: pytest.MonkeyPatch, iot: Any, parse: Parse) -> None:
    client = boto3.client("iot", region_name="eu-central-1")
    monkeypatch.setattr(boto3, "client", lambda *args, **more: client)
    said = "User: arn:aws:iam::123456789012:user/x is not authorized to perform: iot:GetIndexingConfiguration"
    with Stubber(client) as stub:
        stub.add_client_error("get_indexing_configuration", "AccessDeniedException", said)
        with pytest.raises(AnsibleParserError, match="iot:GetIndexingConfiguration"):
            parse()


def test_the_cache_spares_aws(tmp_path: Path, iot: Any, asked: Counter[str], parse: Parse) -> None:
    a_fleet(iot, 3)
    options = {
        "cache": True,
        "cache_plugin": "ansible.builtin.jsonfile",
        "cache_connection": str(tmp_path / "cache"),
    }
    first = groups(parse(**options))
    before = asked.total()
    assert groups(parse(**options)) == first
    assert asked.total() == before
    assert groups(parse(flushed=True, **options)) == first
    assert asked.total() == 2 * before


HOSTILE = {
    "template": "{{ lookup('ansible.builtin.pipe', 'touch /nowhere') }}",
    "ring": "../1; {{ 7 * 7 }}",
    "profile": "0",
}


def test_a_devices_words_are_data(monkeypatch: pytest.MonkeyPatch, iot: Any, parse: Parse) -> None:
    """AWS takes no braces in attributes today; nothing here would read them as a template."""
    client = boto3.client("iot", region_name="eu-central-1")
    monkeypatch.setattr(boto3, "client", lambda *args, **more: client)
    thing = {"thingName": "edge-0001", "attributes": HOSTILE, "thingGroupNames": ["all"]}
    with Stubber(client) as stub:
        stub.add_response(
            "get_indexing_configuration", {"thingIndexingConfiguration": {"thingIndexingMode": "REGISTRY"}}
        )
        stub.add_response("search_index", {"things": [thing]})
        data = parse(compose={"copied": "thing_attributes.template"})
    told = data.hosts["edge-0001"].vars
    templar = Templar(DataLoader(), variables=told)
    for value in (told["thing_attributes"], told["copied"]):
        assert templar.template(value) == value
    assert told["copied"] == HOSTILE["template"]
    assert set(data.groups) == {"all", "ungrouped", "edge_devices", "ring____1_____7___7___", "profile_0"}


@pytest.mark.parametrize(
    "name", ["localhost", "all", "ungrouped", "edge_devices", "ring_1", "-oProxyCommand", "::1", "a:b"]
)
def test_a_name_with_another_meaning_is_no_host(
    iot: Any, parse: Parse, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_fleet(iot, 2)
    iot.create_thing(
        thingName=name, thingTypeName="edge-litestream", attributePayload={"attributes": {"ring": "2"}}
    )
    data = parse()
    assert sorted(data.hosts) == ["edge-0000", "edge-0001"]
    assert "ring_2" not in data.groups
    assert repr(name) in " ".join(capsys.readouterr().err.split())


def test_the_graph_is_what_the_docs_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible-inventory itself, as an operator runs it."""
    page = (ROOT / "docs/aws.md").read_text()
    shown = re.search(r"ansible-inventory -i inventory --graph\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert shown
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "operator")
    inventory = tmp_path / "inventory"
    inventory.mkdir()
    (inventory / "fleet.aws_iot.yml").write_text(yaml.safe_dump({"plugin": NAME, "region": "eu-central-1"}))
    with aws() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        iot = boto3.client("iot", region_name="eu-central-1")
        iot.create_thing_type(thingTypeName="edge-litestream")
        for group in ("edge-litestream", "edge-litestream-canary"):
            iot.create_thing_group(thingGroupName=group)
        for name, profile, ring in (("edge-0001", "tpm2", "0"), ("edge-0002", "cryptoauthlib", "1")):
            iot.create_thing(
                thingName=name,
                thingTypeName="edge-litestream",
                attributePayload={"attributes": {"profile": profile, "ring": ring}},
            )
            iot.add_thing_to_thing_group(thingGroupName="edge-litestream", thingName=name)
        iot.add_thing_to_thing_group(thingGroupName="edge-litestream-canary", thingName="edge-0001")
        command = [sys.executable, "-m", "ansible", "inventory", "-i", str(inventory)]
        graph = subprocess.run(
            [*command, "--graph"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=110
        )
        assert graph.stdout == shown[1]
        listed = subprocess.run(
            [*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=110
        )
    told = json.loads(listed.stdout)["_meta"]["hostvars"]["edge-0002"]["thing_attributes"]["ring"]
    assert told == {"__ansible_unsafe": "1"}, "data, to Ansible as well"

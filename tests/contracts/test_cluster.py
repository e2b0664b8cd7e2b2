"""cluster.yaml and what belongs to it: valid, launched on a mocked EC2, and closed to strangers."""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import jsonschema
import moto
import pytest
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
AWS = ROOT / "deploy" / "aws"
REGION = "us-west-2"
ACCOUNT = "123456789012"  # the one that moto plays
CLUSTER = (ROOT / "cluster.yaml").read_text()
RAW: dict[str, Any] = yaml.safe_load(CLUSTER)
RAYJOB: dict[str, Any] = yaml.safe_load((ROOT / "deploy/kubernetes/rayjob.yaml").read_text())
# What `ray up` goes by: Ray's defaults for AWS are merged into it.
PREPARED: dict[str, Any] = prepare_config(copy.deepcopy(RAW))
POLICIES = {"raypipe-head": ("head.json", "worker.json"), "raypipe-worker": ("worker.json",)}
START_COMMANDS = ("head_start_ray_commands", "worker_start_ray_commands")


@dataclass
class Cloud:
    """A mocked account in which docs/operations.md was followed, and what was asked of it."""

    config: dict[str, Any]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def provider(self) -> AWSNodeProvider:
        return AWSNodeProvider(self.config["provider"], self.config["cluster_name"])

    def launch(self, node_type: str, kind: str) -> dict[str, Any]:
        """Launch one node the way that the autoscaler does; what EC2 has recorded of it."""
        tags = {
            "ray-node-type": kind,
            "ray-user-node-type": node_type,
            "ray-node-name": f"ray-raypipe-{kind}",
            "ray-node-status": "uninitialized",
        }
        node_config = self.config["available_node_types"][node_type]["node_config"]
        (name,) = self.provider().create_node(node_config, tags, 1)
        ec2 = boto3.client("ec2", REGION)
        found = ec2.describe_instances(InstanceIds=[name])
        return dict(found["Reservations"][0]["Instances"][0])


def filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def policy(name: str) -> dict[str, Any]:
    return dict(json.loads((AWS / name).read_text()))


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def make_network() -> dict[str, str]:
    """Private subnets and the security group of deploy/aws/ingress.json."""
    ec2 = boto3.client("ec2", REGION)
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.0.{place}.0/24", AvailabilityZone=f"{REGION}{zone}"
        )["Subnet"]["SubnetId"]
        for place, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(GroupName="raypipe", Description="Ray", VpcId=vpc)["GroupId"]
    values = {
        "subnet-00000000000000000": subnets[0],
        "subnet-00000000000000001": subnets[1],
        "sg-00000000000000000": group,
    }
    ingress = json.loads(filled((AWS / "ingress.json").read_text(), values))
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=ingress)
    return values


def make_account() -> dict[str, str]:
    """What docs/operations.md has one make, once; the values of the placeholders."""
    ec2, iam = boto3.client("ec2", REGION), boto3.client("iam", REGION)
    image = ec2.register_image(Name="gpu", RootDeviceName="/dev/sda1")["ImageId"]
    values = make_network() | {
        "ami-00000000000000000": image,
        "ACCOUNT": ACCOUNT,
        "REGION": REGION,
        "BUCKET": "shop",
    }
    ec2.create_key_pair(KeyName="raypipe")
    for role, files in POLICIES.items():
        trust = (AWS / "trust.json").read_text()
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust)
        iam.create_instance_profile(InstanceProfileName=role)
        iam.add_role_to_instance_profile(InstanceProfileName=role, RoleName=role)
        for name in files:
            document = filled((AWS / name).read_text(), values)
            iam.put_role_policy(RoleName=role, PolicyName=name[:-5], PolicyDocument=document)
    return values


def known_types(region: str, credentials: object) -> list[Any]:
    """What AWS says of the instance types in question; to list all of them takes long."""
    types = [entry["node_config"]["InstanceType"] for entry in RAW["available_node_types"].values()]
    found = boto3.client("ec2", region).describe_instance_types(InstanceTypes=types)
    return list(found["InstanceTypes"])


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    patch = pytest.MonkeyPatch()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        patch.setenv(name, "mocked")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    patch.setattr("time.sleep", lambda seconds: None)
    patch.setattr("ray.autoscaler._private.aws.node_provider.list_ec2_instances", known_types)
    with moto.mock_aws():
        config = yaml.safe_load(filled(CLUSTER, make_account()))
        groups = boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
        made = Cloud(_bootstrap_config(config, no_config_cache=True))
        after = boto3.client("ec2", REGION).describe_security_groups()["SecurityGroups"]
        assert after == groups, "Ray made or widened a security group of its own"
        original = botocore.client.BaseClient._make_api_call

        def recorded(client: Any, operation: str, arguments: dict[str, Any]) -> Any:
            made.calls.append((operation, arguments))
            return original(client, operation, arguments)

        patch.setattr(botocore.client.BaseClient, "_make_api_call", recorded)
        yield made
    patch.undo()


@pytest.fixture(scope="module")
def head(cloud: Cloud) -> dict[str, Any]:
    return cloud.launch("head", "head")


@pytest.fixture(scope="module")
def worker(cloud: Cloud) -> dict[str, Any]:
    return cloud.launch("gpu", "worker")


@pytest.fixture(scope="module")
def cpu_worker(cloud: Cloud) -> dict[str, Any]:
    return cloud.launch("cpu", "worker")


@pytest.fixture(params=["head", "worker", "cpu_worker"])
def node(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.getfixturevalue(request.param))


# Ray's own validation


def test_ray_accepts_the_configuration_with_its_defaults() -> None:
    validate_config(PREPARED)


@pytest.mark.parametrize("place", [(), ("auth",), ("available_node_types", "gpu")])
def test_ray_refuses_a_misspelt_key(place: tuple[str, ...]) -> None:
    config = copy.deepcopy(PREPARED)
    section = config
    for name in place:
        section = section[name]
    section["idle_timeout_minuets"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuets"):
        validate_config(config)


# What the mocked EC2 has recorded of the nodes


def test_a_node_answers_metadata_requests_of_version_2_from_itself_only(
    node: dict[str, Any],
) -> None:
    options = node["MetadataOptions"]
    assert (options["HttpTokens"], options["HttpPutResponseHopLimit"]) == ("required", 1)


def test_every_disk_is_encrypted_and_goes_with_its_node(node: dict[str, Any]) -> None:
    devices = [device["Ebs"] for device in node["BlockDeviceMappings"]]
    assert devices
    assert all(device["DeleteOnTermination"] for device in devices)
    names = [device["VolumeId"] for device in devices]
    volumes = boto3.client("ec2", REGION).describe_volumes(VolumeIds=names)["Volumes"]
    assert {(volume["Encrypted"], volume["VolumeType"]) for volume in volumes} == {(True, "gp3")}


def test_no_node_has_a_public_address(node: dict[str, Any]) -> None:
    assert "PublicIpAddress" not in node
    assert not node.get("PublicDnsName")
    for interface in node["NetworkInterfaces"]:
        assert not interface.get("Association", {}).get("PublicIp")


def test_nobody_outside_the_security_group_is_let_in(node: dict[str, Any]) -> None:
    attached = [group["GroupId"] for group in node["SecurityGroups"]]
    ec2 = boto3.client("ec2", REGION)
    (group,) = ec2.describe_security_groups(GroupIds=attached)["SecurityGroups"]
    for rule in group["IpPermissions"]:
        assert rule["IpRanges"] == rule["Ipv6Ranges"] == rule["PrefixListIds"] == []
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == attached


def test_the_workers_alone_are_spot_instances(
    head: dict[str, Any], worker: dict[str, Any], cpu_worker: dict[str, Any]
) -> None:
    assert worker["InstanceLifecycle"] == cpu_worker["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in head


def test_every_kind_of_node_has_its_own_instance_profile(
    head: dict[str, Any], worker: dict[str, Any], cpu_worker: dict[str, Any]
) -> None:
    nodes = (head, worker, cpu_worker)
    profiles = [node["IamInstanceProfile"]["Arn"].split("/")[-1] for node in nodes]
    assert profiles == ["raypipe-head", "raypipe-worker", "raypipe-worker"]


def test_workers_of_one_type_have_gpus_and_all_workers_may_be_gone(cloud: Cloud) -> None:
    types = cloud.config["available_node_types"]
    gpus = {name: kind["resources"]["GPU"] for name, kind in types.items()}
    assert gpus == {"head": 0, "gpu": 1, "cpu": 0}
    assert [types[name]["min_workers"] for name in ("gpu", "cpu")] == [0, 0]
    most = [types[name]["max_workers"] for name in ("gpu", "cpu")]
    assert most == [8, 4]
    assert cloud.config["max_workers"] == sum(most)


def test_the_heads_policy_allows_each_call_of_its_autoscaler(cloud: Cloud) -> None:
    cloud.calls.clear()
    name = cloud.launch("gpu", "worker")["InstanceId"]
    provider = cloud.provider()
    provider.non_terminated_nodes({"ray-node-type": "worker"})
    provider.set_node_tags(name, {"ray-node-status": "up-to-date"})
    provider.non_terminated_nodes({})  # sends the tags
    provider.terminate_nodes([name])
    provider.terminate_node(name)
    called = {f"ec2:{operation}" for operation, _ in cloud.calls}
    assert {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags"} <= called
    allowed = {action for entry in policy("head.json")["Statement"] for action in entry["Action"]}
    assert called <= allowed


@pytest.mark.parametrize("node_type", ["gpu", "cpu"])
def test_the_heads_policy_asks_of_a_worker_what_it_is_launched_with(
    cloud: Cloud, node_type: str
) -> None:
    cloud.calls.clear()
    cloud.launch(node_type, "worker")
    (request,) = [arguments for name, arguments in cloud.calls if name == "RunInstances"]
    (tags,) = [
        {tag["Key"]: tag["Value"] for tag in entry["Tags"]}
        for entry in request["TagSpecifications"]
    ]
    profile = request["IamInstanceProfile"]["Name"]
    facts = {
        "aws:RequestTag/ray-cluster-name": tags["ray-cluster-name"],
        "aws:RequestTag/ray-node-type": tags["ray-node-type"],
        "ec2:InstanceType": request["InstanceType"],
        "ec2:InstanceMarketType": request["InstanceMarketOptions"]["MarketType"],
        "ec2:MetadataHttpTokens": request["MetadataOptions"]["HttpTokens"],
        "ec2:MetadataHttpPutResponseHopLimit": str(
            request["MetadataOptions"]["HttpPutResponseHopLimit"]
        ),
        "ec2:InstanceProfile": f"arn:aws:iam::ACCOUNT:instance-profile/{profile}",
    }
    conditions = statement("head.json", "LaunchGuardedSpotWorkers")["Condition"]
    asked = {key: value for test in conditions.values() for key, value in test.items()}
    types = asked.pop("ec2:InstanceType")
    assert facts.pop("ec2:InstanceType") in types
    assert len(types) == 2
    assert asked == facts


# What is written in the files


def statement(name: str, sid: str) -> dict[str, Any]:
    (found,) = [entry for entry in policy(name)["Statement"] if entry["Sid"] == sid]
    return dict(found)


def test_a_spot_worker_watches_for_the_clouds_notice_once_and_outlives_the_command() -> None:
    (start,) = [line for line in PREPARED["worker_start_ray_commands"] if "ray start" in line]
    _, watch = start.split("ray start", 1)
    assert "setsid nohup flock -n" in watch
    assert "python -m raypipe.runtime.spot" in watch
    assert watch.rstrip().endswith("&)")


@pytest.mark.parametrize("name", START_COMMANDS)
def test_ray_starts_with_the_token_and_never_names_it(name: str) -> None:
    (start,) = [command for command in PREPARED[name] if "ray start" in command]
    assert "RAY_AUTH_MODE=token" in start
    assert "AUTH_TOKEN" not in CLUSTER
    assert f"AWS_REGION={RAW['provider']['region']};" in start
    assert PREPARED["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("chmod 600 ~/.ray/auth_token" in line for line in PREPARED["setup_commands"])


def test_the_dashboard_is_bound_to_the_head_itself() -> None:
    (start,) = [line for line in PREPARED["head_start_ray_commands"] if "ray start" in line]
    assert re.findall(r"--dashboard-host=(\S+)", start) == ["127.0.0.1"]
    assert "0.0.0.0" not in json.dumps(PREPARED)


def test_nodes_are_reached_and_ended_the_safe_way() -> None:
    assert PREPARED["provider"]["use_internal_ips"] is True
    assert PREPARED["provider"]["cache_stopped_nodes"] is False
    assert 0 < PREPARED["idle_timeout_minutes"] <= 15
    assert PREPARED["docker"] == {}


def test_every_install_is_pinned() -> None:
    commands = json.dumps([value for key, value in PREPARED.items() if key.endswith("commands")])
    assert not re.search(r"latest|nightly|\.whl|https?://|>=", commands)
    make = (ROOT / "Makefile").read_text()
    (uv,) = re.findall(r"UV_VERSION := (\S+)", make)
    assert (ROOT / "requirements/uv.txt").read_text().startswith(f"uv=={uv} ")
    for program in (commands, (ROOT / "deploy/Dockerfile").read_text()):
        assert re.search(r"pip install [^&]*--require-hashes -r \S*requirements/uv.txt", program)
    pins = (ROOT / "requirements/gpu.txt").read_text()
    for package in ("boto3", "ray", "setuptools", "vllm"):  # boto3: the head's autoscaler
        assert re.search(rf"^{package}==", pins, re.MULTILINE), package


def test_every_mounted_file_is_there() -> None:
    local = [path for path in RAW["file_mounts"].values() if not path.startswith("~")]
    assert [path for path in local if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", ["head.json", "worker.json"])
def test_no_policy_allows_more_than_it_names(name: str) -> None:
    for entry in policy(name)["Statement"]:
        assert entry["Effect"] == "Allow"
        assert not [action for action in entry["Action"] if "*" in action], entry["Sid"]
        if "*" in entry["Resource"]:
            # These have no resources that could be named.
            reading = re.compile(r"ec2:Describe|ssm:UpdateInstanceInformation|ssmmessages:")
            assert all(reading.match(action) for action in entry["Action"]), entry["Sid"]


def test_workers_reach_the_bucket_and_nothing_else() -> None:
    for entry in policy("worker.json")["Statement"]:
        assert all(action.startswith("s3:") for action in entry["Action"])
        assert all(name.startswith("arn:aws:s3:::BUCKET") for name in entry["Resource"])
    deletes = statement("worker.json", "ForgetCheckpointsAndLeases")
    places = [f"arn:aws:s3:::BUCKET/runs/*/{name}/*" for name in (".training", ".leases")]
    assert deletes["Resource"] == places


def test_the_head_passes_no_role_but_the_workers() -> None:
    passing = statement("head.json", "PassTheWorkersRole")
    assert passing["Resource"] == ["arn:aws:iam::ACCOUNT:role/raypipe-worker"]
    managing = statement("head.json", "ManageOwnWorkers")["Condition"]["StringEquals"]
    assert managing == {
        "aws:ResourceTag/ray-cluster-name": RAW["cluster_name"],
        "aws:ResourceTag/ray-node-type": "worker",
    }


def test_no_file_names_an_account_or_a_resource_of_one() -> None:
    files = [ROOT / "cluster.yaml", ROOT / "docs/operations.md", *sorted(AWS.glob("*.json"))]
    for path in files:
        text = path.read_text()
        assert not re.search(r"(?<!\d)\d{12}(?!\d)", re.sub(r"-0{16}[01]", "", text)), path.name
        found = set(re.findall(r"\b(?:ami|sg|subnet|vpc|i)-([0-9a-f]{8,17})\b", text))
        assert found <= {"0" * 17, "0" * 16 + "1"}, path.name


# The RayJob: KubeRay's fields, by its reference for ray.io/v1 (release 1.7)

RAYJOB_FIELDS = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy",
    "metadata", "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate",
    "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER_FIELDS = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
    "headGroupSpec", "headServiceAnnotations", "historyServerOptions", "managedBy",
    "networkPolicy", "rayVersion", "suspend", "tlsOptions", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
AUTOSCALER_FIELDS = {
    "args", "command", "env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy",
    "resources", "securityContext", "upscalingMode", "version", "volumeMounts",
}  # fmt: skip
GROUP_FIELDS = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
    "priority", "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip


def pods() -> list[dict[str, Any]]:
    """The specs of the submitter, the head and the workers."""
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    templates = [RAYJOB["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)]
    return [template["spec"] for template in templates]


def test_the_rayjob_has_fields_that_kuberay_knows() -> None:
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    spec = RAYJOB["spec"]
    assert spec.keys() <= RAYJOB_FIELDS
    assert spec["rayClusterSpec"].keys() <= CLUSTER_FIELDS
    assert spec["rayClusterSpec"]["autoscalerOptions"].keys() <= AUTOSCALER_FIELDS
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group.keys() <= GROUP_FIELDS


def test_the_rayjob_is_bounded_scales_from_zero_and_asks_for_a_token() -> None:
    spec, cluster = RAYJOB["spec"], RAYJOB["spec"]["rayClusterSpec"]
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    limits = {}
    for group, most in zip(cluster["workerGroupSpecs"], (8, 4), strict=True):
        assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, most)
        (container,) = group["template"]["spec"]["containers"]
        limits[group["groupName"]] = container["resources"]["limits"].get("nvidia.com/gpu")
    assert limits == {"gpu": "1", "cpu": None}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"


def test_every_pod_of_the_rayjob_is_unprivileged_and_of_one_image() -> None:
    images = set()
    for pod in pods():
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            images.add(container["image"])
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    (image,) = images
    assert re.fullmatch(r"[a-z0-9./-]+@sha256:[0-9a-f]{64}", image)


def test_the_rayjob_runs_the_ray_that_is_pinned() -> None:
    pins = (ROOT / "requirements/gpu.txt").read_text()
    assert f"\nray=={RAYJOB['spec']['rayClusterSpec']['rayVersion']} \\\n" in pins

"""`rdt serve`: a checkpoint behind a port."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from data_pipeline.schema.registry import load_attribute
from deploy.device import choose_device
from deploy.doctor import require
from deploy.engine import InferenceEngine
from deploy.serve.contract import Contract, native_statistics
from deploy.serve.keys import read_key
from deploy.serve.server import Listening, is_loopback, serve_until_signal

PROTOCOLS = {
    "openpi": "deploy.serve.openpi:OpenpiService",
    "xpolicylab": "deploy.serve.xpolicylab:XPolicyLabService",
    "robotwin": "deploy.serve.robotwin_tcp:RoboTwinService",
}
"""Each is made of (policy, contract, prompt) and has `listen(where, stop, ready)`."""

PORTS = {"openpi": 8000, "xpolicylab": 19000, "robotwin": 9999}
"""What a client of each protocol tries first."""


def command(args: argparse.Namespace) -> None:
    """Load, warm up, open the port, serve until SIGINT or SIGTERM."""
    require("rdt serve", {"websockets": "websockets", "msgpack": "msgpack"}, extra="serve")
    key = read_key(args.api_key_file)
    make_service = load_attribute("protocol", args.protocol, PROTOCOLS)
    engine = InferenceEngine(args.checkpoint, choose_device(args.device))
    if engine.device.type == "cpu":  # on a GPU the engine has done so at birth
        engine.warm_up()
    contract = contract_of(engine, args.checkpoint)
    service = make_service(engine, contract, args.prompt)
    port = PORTS[args.protocol] if args.port is None else args.port
    where = Listening(host=args.host, port=port, api_key=key)

    def tell(address: str) -> None:
        looks_at = ", ".join(contract.cameras) or "no camera"
        print(
            f"serving {args.checkpoint} at {address} ({args.protocol}, {engine.device}): robot {contract.robot.name}, "
            f"{contract.horizon} actions at {contract.robot.rate_hz:g} Hz, {looks_at}; Ctrl-C ends it",
            flush=True,
        )
        if key is None and not is_loopback(args.host):
            print(
                f"anyone who reaches {args.host} may ask this server: give it a key with --api-key-file, or bind it "
                "to 127.0.0.1 and come through an SSH tunnel",
                flush=True,
            )

    serve_until_signal(lambda stop: service.listen(where, stop, tell))


def contract_of(engine: InferenceEngine, checkpoint: str | Path) -> Contract:
    """What the server of this checkpoint announces."""
    path = Path(checkpoint) / "statistics.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return Contract(
        robot=engine.robot,
        horizon=engine.horizon,
        cameras=engine.cameras,
        history=engine.image_history,
        image_size=engine.model.condition.vision.image_size,
        statistics=native_statistics(engine.robot, known) if known else {},
    )

"""The files that make a folder an MLflow model of the flavour `onnx`, written by hand.

`mlflow.onnx.save_model` writes the same, with a random id and the time of day; here both follow from the content, so that the
same model is the same bytes, and a training step need not import MLflow. A test loads the folder with `mlflow.pyfunc`.
Format: https://mlflow.org/docs/latest/ml/model/
"""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import yaml

MODEL = "model.onnx"
# What a server of the folder needs; one that loads the folder with MLflow needs MLflow too.
REQUIREMENTS = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas")
_EPOCH = "1970-01-01 00:00:00.000000"

Column = tuple[str, str, bool]  # name, MLflow type, required


def files(digest: str, inputs: Sequence[Column], outputs: Sequence[Column], example: Mapping[str, Any]) -> dict[str, str]:
    """The text of each file.

    Args:
        digest: The model's identity, `sha256:<hex>`; MLflow's id is made of it.
        inputs: The columns that the graph takes.
        outputs: The columns that it returns.
        example: One row of inputs that JSON can hold.

    Returns:
        File name to text.
    """
    split = {"columns": list(example), "data": [list(example.values())]}
    return {
        "MLmodel": yaml.safe_dump(_mlmodel(digest, inputs, outputs), sort_keys=True, allow_unicode=True),
        "requirements.txt": "".join(f"{name}=={version(name)}\n" for name in REQUIREMENTS),
        "python_env.yaml": yaml.safe_dump({"python": platform.python_version(), "dependencies": ["-r requirements.txt"]}),
        "conda.yaml": yaml.safe_dump(_conda()),
        "input_example.json": json.dumps(split, ensure_ascii=False) + "\n",
        "serving_input_example.json": json.dumps({"dataframe_split": split}, ensure_ascii=False) + "\n",
    }


def _mlmodel(digest: str, inputs: Sequence[Column], outputs: Sequence[Column]) -> dict[str, Any]:
    return {
        "flavors": {
            "onnx": {
                "code": None,
                "data": MODEL,
                "onnx_session_options": {"inter_op_num_threads": 1, "intra_op_num_threads": 1},
                "onnx_version": version("onnx"),
                "providers": ["CPUExecutionProvider"],
            },
            "python_function": {
                "data": MODEL,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx",
                "python_version": platform.python_version(),
            },
        },
        "mlflow_version": version("mlflow"),
        "model_uuid": digest.removeprefix("sha256:")[:32],
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        },
        "signature": {"inputs": json.dumps(_columns(inputs)), "outputs": json.dumps(_columns(outputs)), "params": None},
        "utc_time_created": _EPOCH,
    }


def _columns(columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [{"type": kind, "name": name, "required": required} for name, kind, required in columns]


def _conda() -> dict[str, Any]:
    python = platform.python_version()
    return {
        "name": "model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": [f"{n}=={version(n)}" for n in REQUIREMENTS]}],
    }

"""The README's own pipeline compiles and runs as printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_pipeline_of_twenty_lines_runs(tmp_path, flights):
    snippet = re.search(r"<!-- compose -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert snippet is not None
    flights.rename({"late": "Churn"}).write_csv(tmp_path / "customers.csv")
    (tmp_path / "churn.py").write_text(snippet[1])
    environment = {**os.environ, "KFP_FOUNDRY_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "churn.py"], cwd=tmp_path, env=environment, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "kfp_foundry", "run", "churn.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

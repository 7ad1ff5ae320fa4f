"""Options for other projects' models change nothing for the study's: the same training, bit for bit, as before them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BEFORE = "a4728f3"  # the commit before the options
TRAIN = """
import hashlib, torch
from pipeline.model.initial import new_model
from pipeline.shape import ModelShape
torch.set_num_threads(1)
for changes in ({}, {"afrac": 0.25, "sink": True}, {"positions": True, "bigram": False}):
    shape = ModelShape(n_layer=2, d_model=64, d_head=16, n_ctx=32, **changes)
    model = new_model(shape, 100, seed=0, bigram=None)
    tokens = torch.randint(100, (8, 33), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=step % 2 == 1):
            logits = model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(hashlib.sha256(state + model.config.model_dump_json().encode()).hexdigest())
"""


def trained(root: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_models_of_the_study_train_to_the_bits_of_the_commit_before(tmp_path):
    files = subprocess.run(["git", "archive", BEFORE, "pipeline"], cwd=ROOT, capture_output=True)
    if files.returncode:
        pytest.skip(f"this checkout has no commit {BEFORE}")
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=files.stdout, check=True)
    now = trained(ROOT)
    assert len(now.split()) == 3 and now == trained(tmp_path)

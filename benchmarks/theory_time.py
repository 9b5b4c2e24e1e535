"""One prediction of λ1, old and new in turn: `python benchmarks/theory_time.py OLD_CHECKOUT`."""

import subprocess
import sys

import numpy as np

CALL = """import time, etastar
try:
    from etastar.theory import sharpness_bounds
except ImportError:  # 0.1.0
    from etastar.curvature import sharpness_bounds
x = etastar.load("digits").x_train[:200].flatten(1)
for n, depth, loss in [(n, k, s) for n, k in ((128, 8), (64, 4)) for s in ("mse", "cross-entropy")]:
    net, start = etastar.MLP(width=n, depth=depth, input_lr_ratio=0.1), time.process_time()
    sharpness_bounds(net, x, 10, loss=loss, kind="gauss-newton")
    print(time.process_time() - start)"""
seconds = []
for path in [sys.argv[1], "."] * 11:
    one = {"PYTHONPATH": f"{path}/src", "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", CALL], env=one, stdout=subprocess.PIPE, check=True)
    seconds.append([float(t) for t in told.stdout.split()])
old, new = np.array(seconds[::2]), np.array(seconds[1::2])
print("seconds", np.median(old, 0), np.median(new, 0), "new ÷ old", np.median(new / old, 0))

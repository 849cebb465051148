"""Questions and sums by VLMEvalKit's own functions; run by its Python, imports nothing of drift.

    python -I oracle.py FOLDER < job

prompts  the text of `build_prompt` for each row of each table in the folder, by form
sums     the headline numbers for the result files in the folder, by form
equal    what its comparison of MathVision says of two texts
"""

import importlib.util
import json
import os
import ssl
import sys
from pathlib import Path


def driver():
    path = Path(__file__).parents[2] / "drift" / "evaluate" / "vlmevalkit.py"
    spec = importlib.util.spec_from_file_location("vlmevalkit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prompts(kit, forms):
    datasets = {form: kit.build_dataset(form) for form in forms}
    return {form: [text(dataset, place) for place in range(len(dataset))] for form, dataset in datasets.items()}


def text(dataset, place):
    (part,) = [part["value"] for part in dataset.build_prompt(place) if part["type"] == "text"]
    return part


def sums(kit, forms):
    return {form: SUMS[form](f"{sys.argv[1]}/{form}.tsv") for form in forms}


def overall(module, name, column):
    def add(file):
        table = getattr(utils(module), name)(file)
        return {"": float(table[table[table.columns[0]] == "Overall"][column].iloc[0])}

    return add


def mathverse(file):
    return {"": float(utils("mathverse").MathVerse_acc(file)["Overall"].iloc[0])}


def wemath(file):
    scores = utils("wemath").wemath_evaluate_models(file)
    return {kind: float(scores[f"Score ({kind.title()})"][0].rstrip("%")) for kind in ("strict", "loose")}


def hallusion(file):
    table = utils("yorn").Hallusion_rating(file)
    return {name: float(table[name].iloc[0]) for name in ("aAcc", "qAcc", "fAcc")}


def choices(file):
    from vlmeval.smp import load

    return {"": 100 * float(utils("multiple_choice").report_acc(load(file))["Overall"].iloc[0])}


def utils(name):
    return importlib.import_module(f"vlmeval.dataset.utils.{name}")


SUMS = {
    "MathVista_MINI": overall("mathvista", "MathVista_acc", "acc"),
    "MathVision": overall("mathv", "MATH_V_acc", "acc"),
    "MathVerse_MINI_Vision_Only": mathverse,
    "WeMath": wemath,
    "LogicVista": overall("logicvista", "evaluate_logicvista", "acc"),
    "HallusionBench": hallusion,
    "RealWorldQA": choices,
    "MMStar": choices,
}


def equal(kit, pair):
    return bool(utils("mathv").is_equal(*pair))


if __name__ == "__main__":
    kit = driver()
    job = json.load(sys.stdin)
    os.environ["LMUData"] = sys.argv[1]  # noqa: SIM112
    kit.import_vlmevalkit()
    assert ssl._create_default_https_context is not ssl._create_unverified_context, "TLS is not verified"
    answer = {"prompts": prompts, "sums": sums, "equal": equal}[job["do"]](kit, job["of"])
    Path(sys.argv[1], "oracle.json").write_text(json.dumps(answer))

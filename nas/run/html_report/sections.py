"""The sections of a report about the search: verdict, plan, history, fronts, genes, agreement, curves, memory, data."""

from collections.abc import Callable
from html import escape

from nas.common.units import format_bytes, format_seconds
from nas.run.html_report import figures, training_figures
from nas.run.html_report.architecture_drawing import draw_architecture, drawing_legend
from nas.run.html_report.data import RunData
from nas.run.html_report.page import PageFigures, Section, details, note, table
from nas.run.html_report.style import STAGE_COLORS, without_legend
from nas.run.progress_lines import (
    STAGE_NOUNS,
    STAGE_VERBS,
    architecture_text,
    counts_text,
    metric_title,
    model_name,
)
from nas.run.reliability import agreement_text
from nas.run.roles import BEST, DISTILLED, simple_titles
from nas.search.keys import BilinearKey, LinearKey
from nas.search.trial import STAGES, Result
from nas.training.metrics import standard_error

_TOP = 20


def lead(data: RunData) -> str:
    """Return the verdict in one sentence; of a search that has none yet, what it has found so far."""
    if data.verdict and not data.is_running:
        return data.verdict[0]
    if data.report and not data.is_running:
        answer = data.report[BEST]
        value = f"{data.metric} {answer['test'][data.metric]:.3f} on test"
        return f"The search has ended; its answer, {_answer_title(data)}, has {value}."
    state = "The search is running" if data.is_running else "The search has not ended"
    best = data.best
    if best is None:
        return f"{state}; no architecture has a score yet."
    value = f"{data.metric} {data.value(best):.3f} on validation"
    return f"{state}. Best so far: {model_name(best.key)}, {STAGE_VERBS[best.stage]}, {value}."


def overview(data: RunData, page: PageFigures) -> Section:
    """Return the section with the main figures, the answer's final evaluation, and how far to trust it."""
    del page
    facts = _facts(data)
    cards = "".join(f"<div><dt>{escape(title)}</dt><dd>{value}</dd></div>" for title, value in facts)
    parts = [f'<dl class="facts">{cards}</dl>']
    if data.report:
        parts += ["<h3>Final evaluation</h3>", _evaluation(data)]
    if len(data.verdict) > 1:
        lines = "".join(f"<li>{escape(entry)}</li>" for entry in data.verdict[1:])
        parts += ["<h3>How far to trust this result</h3>", f'<ul class="lines">{lines}</ul>']
    return Section("overview", "Overview", "".join(parts))


def _facts(data: RunData) -> list[tuple[str, str]]:
    metric, answer = metric_title(data.metric), data.report.get(BEST)
    found = []
    if answer is not None:
        test, validation = answer["test"][data.metric], answer["validation"][data.metric]
        found.append((f"test {metric}", f"{test:.3f}<small>{answer['test_samples']:,} samples, evaluated once</small>"))
        found.append((f"validation {metric}", f"{validation:.3f}<small>selected on it, so optimistic</small>"))
        found.append(("trainable parameters", f"{answer['trainable_parameters']:,}"))
        found.append(("peak memory of training", format_bytes(answer["predicted_peak_bytes"])))
    elif (best := data.best) is not None:
        name = f"{model_name(best.key)}, {STAGE_VERBS[best.stage]}"
        found.append((f"best validation {metric}", f"{data.value(best):.3f}<small>{escape(name)}</small>"))
    counts = counts_text({stage: len(data.results[stage]) for stage in STAGES})
    found.append(("candidates", f"{len(data.results['one_shot'])}<small>{escape(counts)}</small>"))
    spent = sum(data.phases.values())
    budget = data.config.budget.time_seconds
    limit = "" if budget is None else f"<small>of a budget of {escape(format_seconds(budget))}</small>"
    found.append(("time used", f"{escape(format_seconds(spent))}{limit}"))
    if data.rejections:
        infeasible = sum(entry.status == "infeasible" for entry in data.rejections)
        failed = len(data.rejections) - infeasible
        found.append(
            ("without a score", f"{len(data.rejections)}<small>{infeasible} too large, {failed} failed</small>")
        )
    return found


def _evaluation(data: RunData) -> str:
    """Return the table of the exported models: the answer and the simpler ones."""
    titles = {**simple_titles(data.config.space.architecture_class.title), DISTILLED: "distilled model"}
    rows = []
    answer = data.report[BEST]["role"]
    for role, entry in data.report.items():
        if role == answer != BEST:
            continue  # it is the answer, which has a row
        name = f"answer ({_answer_title(data)})" if role == BEST else titles.get(role, role)
        value, count = entry["test"][data.metric], entry["test_samples"]
        error = f" ± {standard_error(value, count):.3f}" if data.metric == "accuracy" else ""
        latency = entry.get("latency_seconds")
        rows.append(
            (
                name,
                f"{entry['validation'][data.metric]:.3f}",
                f"{value:.3f}{error}",
                f"{entry['trainable_parameters']:,}",
                format_bytes(entry["predicted_peak_bytes"]),
                "–" if latency is None else f"{1000 * latency:.1f} ms",
            )
        )
    if answer != BEST and (best := data.best) is not None:
        count, latency = data.parameters_of(best), best.latency_seconds
        rows.insert(
            1,
            (
                f"best architecture ({model_name(best.key)})",
                f"{data.value(best):.3f}",
                "–",
                "–" if count is None else f"{count:,}",
                format_bytes(best.predicted_peak_bytes),
                "–" if latency is None else f"{1000 * latency:.1f} ms",
            ),
        )
    metric = metric_title(data.metric)
    header = ("model", f"validation {metric}", f"test {metric}", "parameters", "training memory", "latency")
    found = table(header, rows, caption="Final evaluation of the exported models")
    error = " ± is the standard error, from the number of test samples alone." if data.metric == "accuracy" else ""
    return found + note(f"Each exported model was evaluated on the test split once, after the search had ended.{error}")


def _answer_title(data: RunData) -> str:
    """Return what the answer is: `best architecture`, `ensemble`, or the title of a simpler model."""
    role = data.report[BEST]["role"]
    titles = {**simple_titles(data.config.space.architecture_class.title), DISTILLED: "distilled model"}
    return "best architecture" if role == BEST else titles.get(role, role)


def time(data: RunData, page: PageFigures) -> Section:
    """Return the section about the plan, and where the time went."""
    times = figures.phase_times(data)
    label = "; ".join(
        f"{name}: {format_seconds(used)} used" + ("" if plan is None else f", {format_seconds(plan)} planned")
        for name, (used, plan) in times.items()
    )
    planned = any(plan is not None for _, plan in times.values())
    caption = "Running time over all sessions." + ("" if planned else " Without a time budget, there is no plan.")
    found = figures.time_by_phase(data)
    body = page.add(found, empty="No phase has begun yet.", label=f"Time of each phase. {label}", caption=caption)
    return Section("time", "Plan and time", body, "Time")


def history(data: RunData, page: PageFigures) -> Section:
    """Return the section with the scores of all candidates."""
    best = data.best
    known = "" if best is None else f" The best is {model_name(best.key)} with {data.value(best):.3f}."
    label = f"Validation {data.metric} of all candidates in the order of their proposals, by stage.{known}"
    caption = (
        "Each point is a candidate; point at it to see its architecture. Compare points of one stage only: screened "
        "candidates borrow the weights of the supernet and score lower than after a training of their own."
    )
    body = page.add(figures.history(data), empty="No candidate has a score yet.", label=label, caption=caption)
    ranked = _ranked(data)
    if ranked:
        metric = metric_title(data.metric)
        header = ("candidate", "stage", f"validation {metric}", "architecture", "training memory", "time")
        rows = [
            (
                model_name(result.key),
                STAGE_VERBS[result.stage],
                f"{data.value(result):.3f}",
                architecture_text(result.architecture),
                format_bytes(result.predicted_peak_bytes),
                format_seconds(result.seconds),
            )
            for result in ranked
        ]
        caption = f"The best {len(rows)} candidates"
        body += details(caption, table(header, rows, caption=caption) + note("All of them are in results.csv."))
    return Section("history", "History", body)


def _ranked(data: RunData) -> list[Result]:
    """Return the best results, those of the most expensive stage first, each candidate with its last one."""
    found: dict[int, Result] = {}
    for stage in reversed(STAGES):
        for result in sorted(data.results[stage], key=lambda entry: -data.sign * data.value(entry)):
            found.setdefault(result.trial, result)
    return list(found.values())[:_TOP]


_WHY_NO_COST = {
    "memory": "No candidate has a score yet.",
    "parameters": "The numbers of parameters are not stored.",
    "latency": "Latency was not measured: it is neither an objective nor bounded in this search.",
}


def front(data: RunData, page: PageFigures) -> Section:
    """Return the section with the fronts of the metric over each cost."""
    parts = []
    for cost in figures.COSTS:
        members = figures.front_members(data, cost)
        names = ", ".join(model_name(result.key) for result in members)
        label = f"Validation {data.metric} over {figures.COST_TITLES[cost]}. On the front: {names or 'none'}."
        drawn = page.add(without_legend(figures.front(data, cost)), empty=_WHY_NO_COST[cost], label=label)
        parts.append(f"<div><h3>{escape(cost.capitalize())}</h3>{drawn}</div>")
    caption = (
        "On the line are the candidates of the last stage that no other beats in both the metric and the cost. Crosses "
        "are the simpler models; solved classifiers need no training memory to speak of, and are not in the first plot."
    )
    body = f'{_stage_legend(data)}<div class="grid">{"".join(parts)}</div>{note(caption)}'
    return Section("front", "Trade-offs", body)


def _stage_legend(data: RunData) -> str:
    """Return the legend that several figures share."""
    signs = {"one_shot": "●", "short": "■", "full": "◆"}
    found = [
        f'<li><i style="color:{STAGE_COLORS[stage]}" aria-hidden="true">{signs[stage]}</i>{STAGE_VERBS[stage]}</li>'
        for stage in STAGES
        if data.results[stage]
    ]
    return f'<ul class="legend plain-legend">{"".join(found)}</ul>'


def genes(data: RunData, page: PageFigures) -> Section:
    """Return the section about the importance of genes, and their effects."""
    found = figures.importances(data)
    shares = ", ".join(f"{figures.gene_title(name)} {share:.0%}" for name, share in found.items())
    empty = "Needs at least four screened candidates that differ in a gene and in their score."
    caption = (
        "How much the values of a gene among the best tenth of the screened candidates differ from those among all "
        "(PED-ANOVA, computed by Optuna). With few candidates it is rough."
    )
    body = page.add(
        figures.importance(data, found), empty=empty, label=f"Importance of the genes: {shares}.", caption=caption
    )
    effects = [
        page.add(effect, empty="", label=f"Validation {data.metric} after screening, by {figures.gene_title(name)}.")
        for name, effect in figures.gene_effects(data).items()
    ]
    if effects:
        body += f'<h3>Screening scores by gene</h3><div class="grid">{"".join(effects)}</div>'
    return Section("genes", "Genes", body)


def agreement(data: RunData, page: PageFigures) -> Section:
    """Return the section that compares the scores of the cheaper stages with those of full training."""
    parts = []
    for found in data.agreements:
        sentence = agreement_text(found)
        sentence = f"{sentence[0].upper()}{sentence[1:]}."
        title = f"{STAGE_NOUNS[found.cheaper]} and {STAGE_NOUNS[found.dearer]}"
        tau = "" if found.tau is None else f": τ\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{found.tau:.2f}".replace("-", "−")
        drawn = page.add(figures.stage_agreement(data, found), empty=sentence, label=sentence, caption=sentence)
        parts.append(f"<div><h3>{escape(title.capitalize() + tau)}</h3>{drawn}</div>")
    body = f'<div class="grid">{"".join(parts)}</div>' if parts else note("No candidate has been trained yet.")
    return Section("agreement", "Quick scores against full training", body, "Agreement")


def curves(data: RunData, page: PageFigures) -> Section:
    """Return the section with the learning curves."""
    label = "Training loss of the supernet and of each training, over training steps."
    caption = "Losses on the batches of training, label smoothing included. All short trainings see the same batches."
    body = page.add(
        training_figures.learning_curves(data), empty="No training has a curve yet.", label=label, caption=caption
    )
    metric = metric_title(data.metric)
    body += page.add(
        training_figures.validation_curves(data),
        empty=f"No training has more than one evaluation on validation ({metric}) yet.",
        label=f"Validation {metric} of full trainings, over training steps.",
        caption="Full trainings are evaluated a few times on their way, where that takes at most 3 % of their time.",
    )
    return Section("curves", "Learning curves", body, "Curves")


def architecture(data: RunData, page: PageFigures) -> Section:
    """Return the section with the drawing of the answer, or of the best architecture so far."""
    del page
    answer = data.answer
    if answer is None:
        return Section("architecture", "Architecture", note("No architecture has a score yet."))
    members = data.answer_members
    name = "The answer" if members else "The best so far"
    if len(members) > 1:
        name = f"The first of the {len(members)} members of the ensemble"
    if isinstance(answer.key, LinearKey | BilinearKey) and data.best is not None:
        name = f"The answer, the {answer.key.name} classifier, fuses no layers. The best architecture of the search"
        answer = data.best
    text = f"{name}, {model_name(answer.key)}: {architecture_text(answer.architecture)}."
    if data.summary is None:
        return Section("architecture", "Architecture", note(f"{text} The sizes of the encoders are not stored."))
    drawing = draw_architecture(answer.architecture, data.summary.sizes)
    body = f"<p>{escape(text)}</p>{drawing}{drawing_legend(answer.architecture)}"
    return Section("architecture", "Architecture", body)


def memory(data: RunData, page: PageFigures) -> Section:
    """Return the section about the memory of workers over time."""
    facts = training_figures.memory_facts(data)
    label = "; ".join(
        f"{stage}: predicted at most {format_bytes(predicted)}, held at most {format_bytes(held)}"
        for stage, _, predicted, held in facts
    )
    budget = format_bytes(data.config.budget.memory_bytes)
    caption = (
        f"The workers of a device share a budget of {budget}. A worker that has room keeps memory that it has freed, "
        f"so it may hold more than its job needs. The last {training_figures.MAX_JOBS} jobs are shown."
    )
    body = page.add(
        training_figures.worker_memory(data),
        empty="No job of a worker has ended yet.",
        label=f"Memory of each worker over time. {label}",
        caption=caption,
    )
    if facts:
        rows = [
            (stage, f"{count:,}", format_bytes(predicted), format_bytes(held))
            for stage, count, predicted, held in facts
        ]
        header = ("stage", "jobs", "largest prediction", "largest measurement")
        body += table(header, rows, caption="Predicted and measured memory of each stage")
    return Section("memory", "Memory of the workers", body, "Memory")


def dataset(data: RunData, page: PageFigures) -> Section:
    """Return the section about the data."""
    summary, encoders = data.summary, data.config.encoders
    lines = [("image encoder", encoders.image), ("text encoder", encoders.text), ("data", data.config.data.location)]
    listed = "".join(f"<li>{escape(title)}: {escape(str(value))}</li>" for title, value in lines)
    body = f'<ul class="lines">{listed}</ul>'
    if summary is None:
        return Section("data", "Data", body + note("The numbers of samples are not stored."))
    del page
    splits = list(summary.samples)
    rows = [(name, *(f"{summary.samples[split].get(name, 0):,}" for split in splits)) for name in data.class_names]
    images = ", ".join(f"{split}: {count:,} images" for split, count in summary.images.items())
    if data.config.data.is_retrieval:
        return Section("data", "Data", f"{body}<p>{escape(images)}; pairs for retrieval.</p>")
    body += f"<p>{escape(images)}; {len(data.class_names)} classes.</p>"
    counted = table(("class", *(f"samples of {split}" for split in splits)), rows, caption="Samples of each class")
    body += counted if len(rows) <= 20 else details(f"Samples of all {len(rows)} classes", counted)
    return Section("data", "Data", body)


SectionBuilder = Callable[[RunData, PageFigures], Section]
BEFORE_CLASSES: tuple[SectionBuilder, ...] = (overview, time, history, front, architecture)
AFTER_CLASSES: tuple[SectionBuilder, ...] = (genes, agreement, curves, memory, dataset)
"""The sections in their order, before and after those about the predictions of the answer."""

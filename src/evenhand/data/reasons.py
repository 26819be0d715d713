"""Why a row, or one judgment of it, cannot be used: the stable reason codes and the exception that carries one."""

REASONS = {
    "malformed_json": "the line is not one JSON value, or is nested too deeply to be parsed",
    "malformed_csv": "the line breaks the rules of CSV quoting, or has more fields than the header",
    "torn_tail": "the last line stops in the middle",
    "not_an_object": "the row is JSON but not an object with named fields",
    "duplicate_key": "an object names the same key twice",
    "invalid_utf8": "the bytes are not UTF-8, or the text holds half of a surrogate pair",
    "control_character": "the text holds NUL or ESC",
    "wrong_type": "a field has another type than this kind of row needs",
    "missing_key": "a field that this kind of row needs is absent",
    "null_value": "a field that this kind of row needs is null",
    "empty": "a prompt or an answer is empty or only whitespace",
    "identical_answers": "both answers are the same text, yet one is preferred",
    "identical_answers_normalised": "the answers differ only in whitespace or Unicode form, yet one is preferred",
    "bad_role": "the turns do not run system, user, assistant, user ... up to the one that is answered",
    "answers_diverge_early": "the two conversations part before the last assistant turn",
    "different_prompts": "the two answers belong to different prompts",
    "different_lengths": "answers and scores, or answers and verdicts, differ in number",
    "non_finite_score": "a number is NaN or infinite",
    "unknown_verdict": "the verdict is none of the known words or numbers",
    "too_large": "the line has more than 4 MiB, the text more than 1 MiB, or there are more than 64 answers",
    "duplicate_id": "the same id with the same content was read before",
}


class Unusable(Exception):
    """A row or judgment that cannot be used; raised and caught inside reading, where it becomes a Refusal."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

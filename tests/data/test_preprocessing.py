from nas.data.preprocessing import Preprocessor
from tests.support.building import feature_sources
from tests.support.project import Project


def test_texts_over_the_token_limit_are_counted(project: Project) -> None:
    preprocessor: Preprocessor = feature_sources(project).preprocessor
    texts = ["apple " * count for count in (1, 6, 7, 20)]  # plus two special tokens
    assert [len(ids) for ids in preprocessor.token_ids(texts)] == [3, 8, 8, 8]
    assert preprocessor.truncated_count(texts) == 2


def test_bytes_that_are_not_utf_8_are_replaced_in_texts(project: Project) -> None:
    preprocessor: Preprocessor = feature_sources(project).preprocessor
    damaged, replaced = (preprocessor.token_ids([f"apple {part} boat"])[0] for part in ("\udce9", "\ufffd"))
    assert damaged.tolist() == replaced.tolist()
    assert preprocessor.truncated_count(["apple \ud800"] * 2) == 0
    assert len(preprocessor.token_ids(["\0", ""])) == 2

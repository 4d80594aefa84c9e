from nas.data.preprocessing import Preprocessor
from tests.support.building import feature_sources
from tests.support.project import Project


def test_texts_over_the_token_limit_are_counted(project: Project) -> None:
    preprocessor: Preprocessor = feature_sources(project).preprocessor
    texts = ["apple " * count for count in (1, 6, 7, 20)]  # plus two special tokens
    assert [len(ids) for ids in preprocessor.token_ids(texts)] == [3, 8, 8, 8]
    assert preprocessor.truncated_count(texts) == 2

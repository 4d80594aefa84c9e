from nas.data.preprocessing import Preprocessor
from tests.support.building import parts
from tests.support.project import Project


def test_texts_longer_than_what_is_read_are_counted(project: Project) -> None:
    preprocessor: Preprocessor = parts(project)["preprocessor"]
    texts = ["apple " * count for count in (1, 6, 7, 20)]  # two special tokens beside the words
    assert [len(ids) for ids in preprocessor.token_ids(texts)] == [3, 8, 8, 8]
    assert preprocessor.cut_count(texts) == 2

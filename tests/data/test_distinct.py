from retrieval_kd.data.distinct import distinct


def test_each_text_once_and_where_it_is():
    texts = ["b", "a", "b", "", "a"]
    once, rows = distinct(texts)
    assert once == ["b", "a", ""]
    assert [once[row] for row in rows] == texts
    assert rows.dtype == "int64"
    assert distinct([])[1].shape == (0,)

import pytest

from vllm_script.patches.wrapping import wrap


def exclaiming(original):
    def wrapped(*args):
        return original(*args) + "!"

    return wrapped


@pytest.fixture
def owner():
    class Owner:
        def method(self, word):
            """What the method does."""
            return word

        @staticmethod
        def static(word):
            return word

        @classmethod
        def of_class(cls, word):
            return f"{cls.__name__} {word}"

    class Child(Owner):
        pass

    Owner.child = Child
    return Owner


def test_each_kind_of_method_stays_what_it_was(owner):
    for name in ("method", "static", "of_class"):
        wrap(owner, name, exclaiming)
    assert owner().method("a") == "a!"
    assert owner.static("a") == owner().static("a") == "a!"
    assert owner.child.of_class("a") == "Child a!"
    assert owner.method.__doc__ == "What the method does."


def test_a_second_time_changes_nothing(owner):
    wrap(owner, "method", exclaiming)
    wrap(owner, "method", exclaiming)
    assert owner().method("a") == "a!"


def test_what_is_not_there_is_an_error(owner):
    with pytest.raises(AttributeError, match="gone"):
        wrap(owner, "gone", exclaiming)

from vllm.entrypoints.launchers import app as launcher

from vllm_script.patches import app as patch


def test_every_app_is_passed_to_every_extension_once(monkeypatch):
    built, extended = [], []
    monkeypatch.setattr(
        launcher, "init_entrypoints_middleware", lambda args, app, tasks: built.append(app)
    )
    monkeypatch.setattr(patch, "_extensions", [])
    first, second = extended.append, lambda app: extended.append(f"{app}, again")
    for extension in (first, second, second):
        patch.extend_app(extension)
    launcher.init_entrypoints_middleware("args", "app", ("generate",))
    assert built == ["app"]
    assert extended == ["app", "app, again"]
    launcher.init_entrypoints_middleware("args", "without an engine", ("render",))
    assert built == ["app", "without an engine"]
    assert extended == ["app", "app, again"]

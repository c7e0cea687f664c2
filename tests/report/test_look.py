"""Every page of runs says how to look at their scans."""

from slivit.report.page import environment
from slivit.report.study_page import view_command


def test_the_command_names_runs_as_a_shell_takes_them():
    assert view_command(["runs/a b", "runs/c"]) == "slivit view 'runs/a b' runs/c"
    assert view_command([]) == ""


def test_the_line_leads_to_the_page_and_holds_no_html_of_a_path():
    macro = environment().get_template("macros.html.j2").module.look
    said = str(macro("slivit view <b>", "#filter=wrong"))
    assert 'href="http://127.0.0.1:8080/#filter=wrong"' in said
    assert "<b>" not in said

"""Templates from strangers can't read, call, hang or fill the memory; the usual ones work."""

import pytest
import transformers

from fromzero.artifact import Artifact
from fromzero.errors import UserError
from fromzero.tokenizer import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]

ESCAPES = [
    '{{ lipsum.__globals__["os"].popen("id") }}',
    '{{ cycler.__init__.__globals__.os.popen("id").read() }}',
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ().__class__.__base__.__subclasses__() }}",
    "{{ messages|attr('__class__') }}",
    "{{ messages|map('attr', '__class__')|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ messages[0].__setitem__('role', 'x') }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{0.__class__}'.format_map({'a': 1}) }}",
    "{% set f = ''.format %}{{ f() }}",
    "{{ guard_spend.__globals__ }}",
    "{{ loop.__class__ }}",
    "{% for m in messages %}{{ loop._iterator }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__class__ }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ messages|pprint }}",
    "{{ (1).__class__ }}",
    "{{ none.__class__ }}",
]

BOMBS = [
    "{{ 'a' * 10000000000 }}",
    "{{ [0] * 10000000000 }}",
    "{{ 9 ** 999999999 }}",
    "{% set x = 99999 %}" + "{% set x = x * x %}" * 40,
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s ~ s %}" * 40,
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s + s %}" * 40,
    "{% set s %}aaaaaaaa{% endset %}" + "{% set s %}{{ s }}{{ s }}{% endset %}" * 40,
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s.replace('a', 'aaaa') %}" * 40,
    "{% set s = 'aaaaaaaa' %}" + "{% set s = s|replace('a', 'aaaa') %}" * 40,
    "{% set s = 'aaaaaaaa' %}" + "{% set s = [s, s]|join %}" * 40,
    "{{ '%9999999999d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ 'a'.ljust(9999999999) }}",
    "{{ 'a'|center(9999999999) }}",
    "{{ messages|tojson(indent=999999999) }}",
    "{{ range(999999999)|list }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for a in range(99999) %}" * 3 + "{% endfor %}" * 3,
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% set b = range(99999)|sort %}{% endfor %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_stopped(source: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize("source", BOMBS)
def test_bombs_are_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromzero.tokenizer.sandbox.MAX_SECONDS", 0.3)
    with pytest.raises(UserError, match="chat template"):
        ChatTemplate(source).render(MESSAGES)


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="not valid at line 2"):
        ChatTemplate("fine\n{% if %}")
    with pytest.raises(UserError, match="refused the conversation: Roles must alternate"):
        ChatTemplate("{{ raise_exception('Roles must alternate') }}").render(MESSAGES)
    with pytest.raises(UserError, match="ZeroDivisionError"):
        ChatTemplate("{{ 1 // 0 }}").render(MESSAGES)
    with pytest.raises(UserError, match="characters; more than"):
        ChatTemplate("x" * 100_001)


# What published templates do: the forms of Llama 2, Llama 3, Gemma, Mistral and Qwen, shortened.
USUAL = [
    """{{ bos_token }}{% for m in messages %}
{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}""",
    """{%- set ns = namespace(found=false, text='') -%}
{%- for m in messages -%}
    {%- if m.role == 'user' and not ns.found -%}{%- set ns.found = true -%}{%- set ns.text = m.content -%}{%- endif -%}
{%- endfor -%}
[INST] {{ ns.text }} [/INST]""",
    """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}
{% else %}{% set rest = messages %}{% endif %}
{% for m in rest %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}
    {{ loop.index }}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% if loop.last %}!{% endif %}
{% endfor %}""",
    """{%- macro show(m, i=1) -%}{{ i }}:{{ m | tojson }}{%- endmacro -%}
{% for m in messages[::-1] %}
{{ show(m, i=loop.index) }}
{% if loop.first %}{% continue %}{% endif %}{{ m.items() | list | length }}{% break %}
{% endfor %}""",
    """    {% if messages | selectattr('role', 'equalto', 'user') | list | count > 0 %}
yes
    {% endif %}
{{ messages | map(attribute='role') | join(', ') }} {{ undefined_name }} {{ 'x' if tools is defined else 'y' }}""",
]


@pytest.mark.parametrize("source", USUAL)
def test_usual_templates_render_as_in_transformers(source: str, trained: Artifact) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(trained.path)
    expected = theirs.apply_chat_template(MESSAGES, chat_template=source, tokenize=False)
    assert ChatTemplate(source, {"bos_token": "<|endoftext|>"}).render(MESSAGES) == expected

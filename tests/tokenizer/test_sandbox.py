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
    "{{ messages[0].role.origins }}",
    "{{ 'word'.origins }}",
    "{{ 'word'.encode() }}",
    "{{ 'a'.join.__self__ }}",
    "{{ joiner.__init__ }}",
    "{{ dict.__globals__ }}",
    "{{ dict.__wrapped__ }}",
    "{{ dict().fromkeys([1]) }}",
    "{{ range.mro() }}",
    "{{ strftime_now.__closure__ }}",
    "{{ namespace(a=1).__class__ }}",
    "{{ namespace(a=1)['__class__'] }}",
    "{{ namespace(a=1)._Namespace__attrs }}",
    "{% set ns = namespace() %}{% set ns['x'] = 1 %}",
    "{% macro m() %}{{ caller.__init__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% generation %}{{ caller.__init__ }}{% endgeneration %}",
    "{% macro m() %}{% endmacro %}{{ m._func }}",
    "{{ messages|sort(attribute='__class__') }}",
    "{{ messages|selectattr('__class__')|list }}",
    "{{ messages|map('map', 'attr')|map('list')|list }}",
    "{{ messages|join(attribute='__class__') }}",
    "{{ messages|groupby('role') }}",
    "{{ messages|random }}",
    "{{ messages is filter }}",
    "{{ messages is test }}",
    "{{ messages.pop() }}",
    "{{ messages.__len__() }}",
    "{% extends 'other' %}",
    "{% from 'other' import name %}",
    "{% include ['a', 'b'] %}",
]

LONG = "{% set s = 'a' %}" + "{% set s = s ~ s %}" * 21
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
    "{% set l = [1] %}" + "{% set l = [l, l] %}" * 60 + "{{ l|tojson }}",
    "{% set l = [1] %}" + "{% set l = [l] + [l] %}" * 60 + "{{ l }}",
    "{% set d = {} %}" + "{% set d = {'a': d, 'b': d} %}" * 60 + "{{ d ~ '' }}",
    "{% set d = {} %}" + "{% set d = dict(a=d.items(), b=d.values()) %}" * 60 + "{{ d }}",
    "{% set l = [1] %}{% set m = [1] %}" + "{% set l = [l, l] %}{% set m = [m, m] %}" * 60 + "{{ l == m }}",
    "{% set ns = namespace(l=1) %}{% macro m() %}{% set ns.l = varargs %}{% endmacro %}" + "{{ m(ns.l, ns.l) }}" * 60,
    "{% set l = range(99999)|list %}{% set l = l|map(attribute='x', default=l)|list %}{{ l }}",
    f"{LONG}{{% set l = range(99999)|map('string')|select('in', s)|list %}}",
    LONG + "{% set x = '99' in s %}" * 800,
    LONG + "{% set x = s[1:] %}" * 800,
    LONG + "{% set x = s.upper() %}" * 800,
    LONG + "{% set x = s|trim %}" * 800,
    LONG + "{% set x = s.split('a') %}" * 40,
    LONG + "{{ s.join([s] + s|list) }}",
    LONG + "{{ s|replace('', s) }}",
    LONG + "{% generation %}" * 40 + "{{ s }}" + "{% endgeneration %}" * 40,
    "{{ strftime_now('%1000000000d') }}",
    "{{ strftime_now('%Y%Y%Y%Y%Y%Y%Y%Y' ~ range(999)|join) }}",
    "{{ messages|tojson(separators=(range(9999)|join, '')) }}",
    "{{ 1|round(99999999, 'ceil') }}",
    "{{ " + "9" * 9999 + " }}",
    "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "{{ " + "not " * 9999 + "1 }}",
    "{{ a" + ".b" * 9999 + " }}",
    "{{ 1" + "|abs" * 9999 + " }}",
    "{% if 1 %}" * 4000 + "{% endif %}" * 800,
    "{% for a in [1] %}" * 99 + "{% endfor %}" * 99,
    "{% generation %}" * 2000 + "{% endgeneration %}" * 2000,
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_escapes_are_stopped(source: str) -> None:
    with pytest.raises(UserError, match="chat template"):
        ChatTemplate(source).render(MESSAGES)


@pytest.mark.parametrize("source", BOMBS)
def test_bombs_are_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fromzero.tokenizer.sandbox.MAX_SECONDS", 0.1)
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


def test_namespaces_and_dictionaries_are_made_but_not_written_out() -> None:
    source = (
        "{% set ns = namespace(a=dict(b=1)) %}{{ ns.a.b }}{% set ns.a = ns %}{{ ns }}{{ messages[0] is sameas none }}"
    )
    assert ChatTemplate(source).render(MESSAGES) == "1<Namespace>False"

"""Every word of a report in its two languages, side by side, so that neither can lack what the other has."""

from typing import Literal

from fromzero.explain.tuning_words import TUNING

Language = Literal["en", "zh"]

_LANGUAGES = """
ar Arabic 阿拉伯语, bg Bulgarian 保加利亚语, bn Bengali 孟加拉语, ca Catalan 加泰罗尼亚语, cs Czech 捷克语,
da Danish 丹麦语, de German 德语, el Greek 希腊语, en English 英语, es Spanish 西班牙语, et Estonian 爱沙尼亚语,
fa Persian 波斯语, fi Finnish 芬兰语, fr French 法语, he Hebrew 希伯来语, hi Hindi 印地语, hr Croatian 克罗地亚语,
hu Hungarian 匈牙利语, id Indonesian 印尼语, it Italian 意大利语, ja Japanese 日语, ko Korean 韩语,
lt Lithuanian 立陶宛语, lv Latvian 拉脱维亚语, ms Malay 马来语, nl Dutch 荷兰语, no Norwegian 挪威语,
pl Polish 波兰语, pt Portuguese 葡萄牙语, ro Romanian 罗马尼亚语, ru Russian 俄语, sk Slovak 斯洛伐克语,
sl Slovenian 斯洛文尼亚语, sr Serbian 塞尔维亚语, sv Swedish 瑞典语, sw Swahili 斯瓦希里语, ta Tamil 泰米尔语,
th Thai 泰语, tr Turkish 土耳其语, uk Ukrainian 乌克兰语, ur Urdu 乌尔都语, vi Vietnamese 越南语, zh Chinese 汉语
"""
# key -> English, Chinese. {names} are filled in by the caller.
TABLE: dict[str, tuple[str, str]] = {
    # headline
    "title": ("{name}: a language model from zero", "{name}：从零训练的语言模型"),
    "title_tuned": ("{name}: what tuning changed", "{name}：微调改变了什么"),
    "title_data": ("{name}: data for a language model", "{name}：语言模型的训练数据"),
    "made": (
        "A language model of {parameters} parameters, trained from random weights in {time} on {bytes} of text.",
        "一个有 {parameters} 个参数的语言模型，从随机权重开始，用 {bytes} 文本训练了 {time}。",
    ),
    "good": (
        "On documents that it never saw, it needs {model} bits for each byte of text. The best baseline, {name}, needs "
        "{baseline}.",
        "对从未见过的文档，它平均每字节文本需要 {model} 比特；最好的基线 {name} 需要 {baseline} 比特。",
    ),
    "good_alone": (
        "On documents that it never saw, it needs {model} bits for each byte of text.",
        "对从未见过的文档，它平均每字节文本需要 {model} 比特。",
    ),
    "no_bits": (
        "Bits per byte were not measured: its tokenizer changes {changed} of the {documents} held-out documents, so "
        "the tokens don't hold their text.",
        "没有测量每字节比特数：分词器改变了 {documents} 篇留出文档中的 {changed} 篇，词元无法还原原文。",
    ),
    "card_parameters": ("parameters", "参数"),
    "card_text": ("text to learn from", "训练文本"),
    "card_bpb": ("bits per byte, held out", "每字节比特数（留出集）"),
    "card_less": ("fewer bits than {name}", "比特数少于 {name}"),
    "card_more": ("more bits than {name}", "比特数多于 {name}"),
    "card_time": ("of training", "训练时长"),
    "card_before": ("before tuning: {before}", "微调前：{before}"),
    "tokens_remark": ("{tokens} tokens", "{tokens} 个词元"),
    "seen_remark": ("{tokens} tokens seen", "共训练 {tokens} 个词元"),
    "change": ("{stage}: {name} went from {before} to {after}.", "{stage}：{name}由 {before} 变为 {after}。"),
    # what went in
    "input": ("What went in", "输入了什么"),
    "source": ("source", "来源"),
    "version": ("version", "版本"),
    "license": ("licence", "许可证"),
    "documents": ("documents", "文档"),
    "bytes": ("size", "大小"),
    "size_bytes": ("bytes", "字节"),
    "total": ("total", "合计"),
    "not_installed": ("not installed", "未安装"),
    "files_read": (
        "{files} files ({bytes}) were read. {unreadable} of them had no readable text, and {passed} more were passed "
        "over, because they are in formats that are not read{suffixes}.",
        "读取了 {files} 个文件（{bytes}），其中 {unreadable} 个没有可读的文本；"
        "另有 {passed} 个文件的格式不支持，已跳过{suffixes}。",
    ),
    "suffixes": (" ({list})", "（{list}）"),
    "format": ("format", "格式"),
    "files": ("files", "文件"),
    "kept_documents": ("documents kept", "保留的文档"),
    "kept_bytes": ("text kept", "保留的文本"),
    "language": ("language", "语言"),
    "share": ("share", "占比"),
    # what was dropped
    "dropped": ("What was dropped, and why", "丢弃了什么，为什么"),
    "dropped_lead": (
        "Of {read} documents, {kept} were kept and {rejected} dropped. The rules run in this order; each dropped "
        "document counts once, at the first rule that it breaks, and is kept with its reason in {folder}.",
        "{read} 篇文档中保留了 {kept} 篇，丢弃了 {rejected} 篇。规则按下面的顺序执行；"
        "每篇被丢弃的文档只在它违反的第一条规则处计一次，原文和原因都保存在 {folder}。",
    ),
    "cut": (
        "{count} long documents were cut into parts, each of which counts as a document here.",
        "有 {count} 篇长文档被切成几部分，每一部分在这里都算一篇文档。",
    ),
    "halved": (
        "{count} kept document was cut in two where the held-out part begins, so both parts count it.",
        "有 {count} 篇保留的文档在留出部分的起点被一分为二，两部分都计入了它。",
    ),
    "funnel": ("Documents left after each rule", "每条规则之后剩下的文档"),
    "funnel_bytes": ("Text left after each rule", "每条规则之后剩下的文本"),
    "left": ("left", "剩下"),
    "taken": ("dropped by this rule", "被这条规则丢弃"),
    "rule": ("rule", "规则"),
    "setting": ("setting", "设置"),
    "read": ("read", "读入"),
    "kept": ("kept", "保留"),
    "train": ("to learn from", "训练集"),
    "validation": ("held out", "留出集"),
    # tokenizer
    "tokenizer": ("Tokenizer", "分词器"),
    "tokenizer_lead": (
        "{vocab} tokens of the kind {kind}, trained on the {bytes} to learn from. The more "
        "bytes one token stands for, the more text fits the context and the less a model has to compute.",
        "{kind} 类分词器，共 {vocab} 个词元，用 {bytes} 训练文本训练。"
        "一个词元代表的字节越多，上下文能容纳的文本就越多，模型的计算量也越小。",
    ),
    "fertility": ("Bytes per token on held-out text", "留出文本上每词元的字节数"),
    "bytes_per_token": ("bytes per token, {part}", "字节 / 词元（{part}）"),
    "all": ("all", "全部"),
    "measured": ("held-out text measured", "测量的留出文本"),
    "packed": (
        "Packed: {train} tokens to learn from and {validation} held out.",
        "打包后：训练集 {train} 个词元，留出集 {validation} 个词元。",
    ),
    # mixture
    "mixture": ("Mixture", "混合"),
    "mixture_lead": (
        "Each source was dealt with its share at any point of a phase, and none of its text again before all was seen.",
        "在每个阶段的任何时刻，各来源都按自己的份额出现；一个来源的文本全部用过一遍之后，才会再次出现。",
    ),
    "phase": ("phase", "阶段"),
    "weight": ("weight asked", "要求的权重"),
    "available": ("tokens there", "已有词元"),
    "drawn": ("tokens drawn", "抽取词元"),
    "epochs": ("epochs", "遍数"),
    "max_epochs": ("at most", "最多遍数"),
    "drawn_share": ("share drawn", "实际份额"),
    # training
    "base": ("How it learned", "学习过程"),
    "shape": (
        "{family}: {layers} layers, width {width}, {heads} heads, context of {context} tokens, {parameters} parameters."
        " {steps} steps of {batch} tokens.",
        "{family}：{layers} 层，宽度 {width}，{heads} 个注意力头，上下文 {context} 个词元，{parameters} 个参数。"
        "共 {steps} 步，每步 {batch} 个词元。",
    ),
    "chat_lead": (
        "The base model was tuned for {steps} steps on {train} conversations, with loss on the answers only. "
        "{validation} conversations, about other things than those, were held out.",
        "基础模型在 {train} 段对话上微调了 {steps} 步，只对回答部分计算损失；"
        "另有 {validation} 段内容不同的对话留作检验。",
    ),
    "question_kind": ("kind of question", "问题类型"),
    "conversations": ("conversations", "对话"),
    "loss_title": ("Loss", "损失"),
    "bpb_title": ("Bits per byte on held-out text", "留出文本的每字节比特数"),
    "rate_title": ("Learning rate", "学习率"),
    "norm_title": ("Gradient norm, before clipping", "梯度范数（裁剪前）"),
    "norm_axis": ("gradient norm", "梯度范数"),
    "nats": ("nats per token", "奈特 / 词元"),
    "bpb_axis": ("bits per byte", "比特 / 字节"),
    "rate_axis": ("learning rate", "学习率"),
    "step": ("step", "步"),
    "tokens": ("tokens seen", "已训练词元数"),
    "train_loss": ("batch it learns from", "训练批次"),
    "held_out_loss": ("held-out text", "留出文本"),
    "curve": ("The figures behind the curves", "曲线背后的数字"),
    # results
    "scores": ("How good it is", "效果如何"),
    "scores_lead": (
        "Bits per byte says how many bits are needed to store the held-out text, given what the model expects: fewer is"
        " better, and tokenizers don't matter. The same text was compressed by the baselines; unigram only knows how "
        "often each token occurs. The whisker is the model's standard error over documents.",
        "每字节比特数表示：按模型的预测来编码留出文本，平均每字节需要多少比特。越小越好，且与分词器无关。"
        "各基线压缩的是同一份文本；unigram 只知道每个词元出现的频率。误差线是模型在各文档间的标准误。",
    ),
    "this_model": ("this model", "本模型"),
    "perplexity": ("perplexity per token", "每词元困惑度"),
    "nats_per_character": ("nats per character", "每字符奈特数"),
    "spelled": ("unknown text, charged at 8 bits a byte", "未知文本（按每字节 8 比特计）"),
    "evaluated": ("evaluated on", "评测文本"),
    "evaluated_on": (
        "{documents} documents, {tokens} tokens, {bytes}",
        "{documents} 篇文档，{tokens} 个词元，{bytes}",
    ),
    "figure": ("figure", "指标"),
    "plain_value": ("value", "数值"),
    "value": ("value (± standard error)", "数值（± 标准误）"),
    "speed": ("Speed and memory", "速度与内存"),
    "base_model": ("base model", "基础模型"),
    "seconds": ("time in training steps", "训练步骤用时"),
    "tokens_per_second": ("tokens per second, median", "每秒词元数（中位数）"),
    "flops": ("FLOP/s, median", "每秒浮点运算（中位数）"),
    "mfu": ("share of the machine's matrix-product speed (MFU)", "占机器矩阵乘法速度的比例（MFU）"),
    "memory": ("peak memory", "峰值内存"),
    "skipped_steps": ("steps left out as spikes", "因突变而跳过的步数"),
    "data_wait": ("waiting for data, share of a step", "等待数据占每步时间的比例"),
    "step_estimate": ("error of the estimated time of a step", "每步用时的预估误差"),
    # samples and questions
    "samples": ("What it wrote along the way", "训练途中的文字"),
    "samples_lead": (
        "The same beginnings, continued by the model at several points of its training.",
        "同样的开头，由训练中不同时刻的模型续写。",
    ),
    "at_step": ("step {step}", "第 {step} 步"),
    "more_examples": ("{count} more examples", "另外 {count} 个例子"),
    "expected": ("expected", "参考答案"),
    "before": ("before", "微调前"),
    "after": ("after", "微调后"),
    # how to go on
    "use": ("Talk to it", "与它对话"),
    "use_chat": (
        "It knows only the documents above, and makes things up beyond them. Check what it says.",
        "它只了解上面的文档，超出的内容会编造，请核对它说的话。",
    ),
    "use_base": (
        "This is a base model: it goes on from a text, and was not taught to answer.",
        "这是基础模型：它只会续写文本，没有学过回答问题。",
    ),
    "repeat": ("Make it again", "如何重现"),
    "repeat_lead": (
        "These commands, run in this order with the packages below, make every stage of this run; each skips what is "
        "up to date. The settings of a stage, saved as a file, are what its command reads with --config.",
        "在安装了下列软件包的环境中依次运行这些命令，即可重现本次运行的每个阶段；已是最新的阶段会自动跳过。"
        "把某个阶段的设置存成文件，就能用 --config 交给对应的命令。",
    ),
    "settings_of": ("Settings of {stage}", "{stage} 的设置"),
    "stage": ("stage", "阶段"),
    "kind": ("kind", "类型"),
    "seed": ("seed", "随机种子"),
    "finished": ("finished", "完成时间"),
    "content": ("content (SHA-256)", "内容（SHA-256）"),
    "stages_title": ("Stages, seeds and hashes", "各阶段、随机种子与哈希"),
    "packages_title": ("Package versions", "软件包版本"),
    "package": ("package", "软件包"),
    "machine_title": ("The machine that this report was made on", "生成本报告的机器"),
    "system": ("system", "系统"),
    "device": ("device", "设备"),
    "cores": ("threads", "线程数"),
    "total_memory": ("memory", "内存"),
    "matrix_products": ("matrix products, {dtype}", "矩阵乘法，{dtype}"),
    "footer": ("Made by fromzero {version} from {path}.", "由 fromzero {version} 根据 {path} 生成。"),
    # a comparison of tokenizers
    "compare_title": ("How {names} cut text", "{names} 如何切分文本"),
    "compare_lead": (
        "The same text, read by each tokenizer: at most {limit} of each group. The more bytes a token stands for, the "
        "fewer tokens a model has to read and write. Speeds are medians over text that was read before, on one "
        "machine: only large differences mean something.",
        "用每个分词器读同一份文本，每组最多 {limit}。一个词元代表的字节越多，模型要读写的词元就越少。"
        "速度是在一台机器上重读读过的文本所得的中位数，只有明显的差别才有意义。",
    ),
    "no_speed": (
        "Speed is not measured with less than {least} of text: it would be that of caches.",
        "文本不足 {least}，不测速度：测到的只会是缓存的速度。",
    ),
    "name": ("name", "名称"),
    "vocabulary": ("vocabulary", "词表大小"),
    "used": ("used here", "本文本用到"),
    "of_token": ("bytes / token", "字节 / 词元"),
    "characters_of_token": ("chars / token", "字符 / 词元"),
    "encoding_speed": ("encoded / second", "编码 / 秒"),
    "changed": ("lossy texts", "有变的文本"),
    "rates": ("How many tokens text needs", "文本需要多少词元"),
    "rates_lead": (
        "A word is what stands between blanks; in scripts without blanks, such as Chinese or Thai, each character is "
        "one. Single bytes are tokens of one byte, unknown ones stand for text that the vocabulary lacks. Lossy texts "
        "are those that decoding does not give back as they were, or that can't be encoded.",
        "两个空白之间算一个词；中文、泰文等不用空白的文字，每个字符算一个词。单字节是只有一个字节的词元，"
        "未知词元代替词表里没有的文本。解码后与原文不同，或者无法编码的，算作有变。",
    ),
    "group": ("text", "文本"),
    "tokens_of_word": ("tokens / word", "词元 / 词"),
    "single_bytes": ("single bytes", "单字节"),
    "unknown": ("unknown", "未知词元"),
    "cuts": ("Where they cut", "切在哪里"),
    "cuts_lead": (
        "Each colour is a token; its id and bytes show under the pointer. A dot is a blank, ↵ a line end, ⇥ a tab; "
        "\\xE4 is a byte of a character that is spread over several tokens, U+200B a character that can't be seen.",
        "每段颜色是一个词元，鼠标停在上面可以看到编号和字节。点表示空格，↵ 表示换行，⇥ 表示制表符；"
        "\\xE4 是被几个词元分开的字符中的一个字节，U+200B 是看不见的字符。",
    ),
    "cut_by": ("{name}: {tokens} tokens", "{name}：{tokens} 个词元"),
    "refused": ("{name}: can't encode this", "{name}：无法编码"),
    "vocabularies": ("What the vocabularies hold", "词表里有什么"),
    "longest": ("longest tokens", "最长的词元"),
    "lengths": ("% by length in bytes", "按字节长度，%"),
    "overlap": ("Vocabulary in common", "共同的词表"),
    "overlap_lead": (
        "How much of the vocabulary in a row the vocabulary in a column holds as well; special tokens don't count.",
        "每行的词表有多少也在每列的词表里；不计特殊词元。",
    ),
    # a look at a corpus
    "corpus_title": ("{name}: what was kept and what was dropped", "{name}：保留了什么，丢弃了什么"),
    "corpus_lead": (
        "Counts and dropped examples are of all documents. Distributions and kept examples are of a sample, the same "
        "each time: {kept} of the kept and {rejected} of the dropped documents. The excerpts show your documents as "
        "they are, with the personal data in them: mind whom you give this page.",
        "计数和被丢弃的例子取自全部文档；分布和被保留的例子取自样本，每次都相同：保留的 {kept} 篇，"
        "丢弃的 {rejected} 篇。摘录是文档原文，其中可能有个人信息，分享本页时请留意。",
    ),
    "dropped_documents": ("dropped", "丢弃"),
    "spread": ("How they are spread", "分布"),
    "spread_lead": (
        "Per cent of the kept and of the dropped documents; the outermost bars also hold what lies beyond them. Dashed "
        "lines are limits. Kept text is measured as it is stored, without what rules took out of it.",
        "各占保留文档和丢弃文档的百分比，最外侧的柱子也包含更远的值。虚线是限值。"
        "保留的文本按存储的样子测量，不含已被规则去掉的部分。",
    ),
    "spread_languages": ("Language: kept, dropped (estimated from the sample)", "语言：保留、丢弃（由样本估计）"),
    "more_charts": ("More distributions", "更多分布"),
    "rules": ("Rule by rule", "逐条规则"),
    "rules_lead": (
        "A document counts at the first rule that it breaks. Open a rule to see the documents nearest to its limit: of "
        "all that it dropped, and of the kept in the sample. Rules for lines take out lines and drop no document.",
        "一篇文档只在它违反的第一条规则处计一次。点开一条规则，可以看到离限值最近的文档："
        "一边取自它丢弃的全部文档，一边取自样本中保留的文档。针对行的规则只去掉行，不丢弃文档。",
    ),
    "reason": ("reason", "原因"),
    "limit": ("limit", "限值"),
    "outside": ("nearest dropped", "最近的丢弃"),
    "inside": ("nearest kept", "最近的保留"),
    "examples": ("examples", "例子"),
    "dropped_by": ("{name}: {count} dropped", "{name}：丢弃 {count} 篇"),
    "others": ("Dropped for other reasons", "因其他原因丢弃"),
    "pairs": ("Nearly the same", "近似重复"),
    "pairs_lead": (
        "The longest of such texts was kept. The excerpts begin shortly before the first difference.",
        "这样的文本只保留最长的一篇。摘录从第一处不同之前不远开始。",
    ),
    # names of languages; others are shown by their code
    "language.und": ("too short to tell", "太短，无法判断"),
    "language.code": ("code", "代码"),
    "language.numbers": ("numbers", "数字"),
    "language.Latin": ("Latin script", "拉丁字母"),
    "language.Cyrillic": ("Cyrillic script", "西里尔字母"),
    "language.Arabic": ("Arabic script", "阿拉伯字母"),
    # reasons for dropping a document, as the corpus stage names them
    "reason.file could not be opened": ("file could not be opened", "文件无法打开"),
    "reason.file too large": ("file too large", "文件太大"),
    "reason.binary file, not text": ("binary file, not text", "是二进制文件，不是文本"),
    "reason.damaged file": ("damaged file", "文件损坏"),
    "reason.encrypted file": ("encrypted file", "文件已加密"),
    "reason.format that is not read": ("format that is not read", "不支持的格式"),
    "reason.archives in archives": ("archives in archives", "压缩包嵌套过深"),
    "reason.unpacks to too much": ("unpacks to too much", "解压后过大"),
    "reason.parser crashed": ("parser crashed", "解析器崩溃"),
    "reason.parser took too long": ("parser took too long", "解析超时"),
    "reason.parser needed too much memory": ("parser needed too much memory", "解析内存超限"),
    "reason.record could not be read": ("record could not be read", "记录无法读取"),
    "reason.document too large": ("document too large", "文档太大"),
    "reason.no text": ("no text", "没有文本"),
    "reason.too short": ("too short", "太短"),
    "reason.undecodable characters": ("undecodable characters", "无法解码的字符"),
    "reason.too few letters": ("too few letters", "文字太少"),
    "reason.words too short or too long": ("words too short or too long", "单词过短或过长"),
    "reason.repeated lines": ("repeated lines", "重复的行"),
    "reason.repeated text": ("repeated text", "重复的文本"),
    "reason.too long": ("too long", "太长"),
    "reason.too many symbols": ("too many symbols", "符号太多"),
    "reason.lists and scraps rather than sentences": (
        "lists and scraps rather than sentences",
        "多为列表和碎片，少有句子",
    ),
    "reason.too few stop words": ("too few stop words", "虚词太少"),
    "reason.placeholders or code": ("placeholders or code", "占位文字或代码"),
    "reason.duplicate": ("duplicate", "重复的文档"),
    "reason.near duplicate": ("near duplicate", "近似重复的文档"),
    "reason.other language": ("other language", "其他语言"),
    "reason.domain on a list": ("domain on a list", "域名在名单上"),
    "reason.address on a list": ("address on a list", "网址在名单上"),
    "reason.words on a list": ("words on a list", "含有名单上的词"),
    "reason.low score of the classifier": ("low score of the classifier", "分类器评分过低"),
    "reason.high perplexity": ("high perplexity", "困惑度过高"),
    "reason.holds an evaluation item": ("holds an evaluation item", "含有评测题目"),
    "reason.repeated passages": ("repeated passages", "重复片段（已剪除）"),
    **TUNING,
} | {
    f"language.{code}": (english, chinese)
    for code, english, chinese in (item.split() for item in _LANGUAGES.split(","))
}


class Words:
    """The words of one language."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self._column = ("en", "zh").index(language)

    def __call__(self, key: str, **values: str) -> str:
        """The words for a key, with what is given filled in."""
        return TABLE[key][self._column].format(**values)

    def name(self, group: str, value: str) -> str:
        """The name of a value of a group ('language', 'reason'); a value without one is its own name."""
        return self(f"{group}.{value}") if f"{group}.{value}" in TABLE else value

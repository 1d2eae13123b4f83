// The page's words, in English and Chinese. {name} stands for a value.

const WORDS = {
  account: ["You", "你"], answerDone: ["The answer is complete.", "回答完毕。"],
  appearance: ["Appearance", "外观"], assistant: ["Assistant", "助手"], auto: ["Automatic", "自动"],
  busy: ["The server is busy.", "服务器正忙。"], cancel: ["Cancel", "取消"], close: ["Close", "关闭"],
  code: ["code", "代码"], completion: ["This model has no chat template: it goes on with your text.", "该模型没有对话模板：它会接着你的文字往下写。"],
  composer: ["Message", "消息"], contextFull: ["more than the model can read", "超出模型可读长度"],
  conversations: ["Conversations", "对话"], copied: ["Copied", "已复制"], copyCode: ["Copy code", "复制代码"], copyText: ["Copy", "复制"],
  dark: ["Dark", "深色"], deleted: ["“{title}” was deleted.", "已删除“{title}”。"], deleteOne: ["Delete “{title}”", "删除“{title}”"],
  edit: ["Edit", "编辑"], exportAll: ["Export", "导出"], failed: ["The server could not answer: {message}", "服务器无法回答：{message}"],
  first: ["first after {s} s", "首个词元 {s} 秒"], full: ["{n} conversations are kept at most: delete some first.", "最多保存 {n} 个对话：请先删除一些。"],
  greeting: ["What shall we talk about?", "想聊点什么？"], importAll: ["Import", "导入"],
  imported: ["{n} conversations came in.", "已导入 {n} 个对话。"], interrupted: ["interrupted", "已中断"],
  keepKey: ["Keep it on this device", "在此设备上保存"], key: ["API key", "API 密钥"], keyWanted: ["This server asks for an API key.", "该服务器需要 API 密钥。"],
  keyWrong: ["The server did not take this API key.", "服务器不接受此 API 密钥。"], language: ["Language", "语言"],
  latest: ["Go to the latest", "回到最新"], length: ["length limit reached", "达到长度上限"], light: ["Light", "浅色"],
  loading: ["The model is still loading.", "模型仍在加载。"], max_tokens: ["Longest answer (tokens)", "最长回答（词元）"],
  menu: ["Conversations", "对话列表"], min_p: ["Min-p", "Min-p"], model: ["Model", "模型"],
  newOne: ["New conversation", "新对话"], newer: ["Next version", "下一个版本"], older: ["Previous version", "上一个版本"],
  none: ["Nothing here yet.", "这里还什么都没有。"], nothingFound: ["Nothing was found.", "没有找到。"],
  notOurs: ["This file holds no conversations of this page.", "此文件不含本页面的对话。"],
  notKept: ["The browser did not keep this conversation: {message}", "浏览器未能保存此对话：{message}"],
  offline: ["The server cannot be reached.", "无法连接服务器。"], placeholder: ["Write a message", "输入消息"],
  private: ["Conversations stay in this browser. Enter sends, Shift+Enter makes a line.", "对话只保存在此浏览器中。按 Enter 发送，Shift+Enter 换行。"],
  probabilities: ["Token probabilities", "词元概率"], probabilityHelp: ["Tokens, coloured by probability; arrow keys tell each", "按概率着色的词元；用方向键逐个查看"],
  refused: ["{message}", "{message}"], rename: ["Rename “{title}”", "重命名“{title}”"], repetition_penalty: ["Repetition penalty", "重复惩罚"],
  retry: ["Try again", "重试"], retryIn: ["Try again in {s} s", "{s} 秒后重试"], sampling: ["Answers", "回答"],
  samplingHelp: ["What is left empty is as the model has it.", "留空则使用模型的默认值。"], save: ["Save", "保存"], again: ["Another answer", "重新回答"],
  search: ["Search", "搜索"], seed: ["Seed", "随机种子"], send: ["Send", "发送"], settings: ["Settings", "设置"],
  skip: ["To the message box", "跳到输入框"], speed: ["{n} tokens/s", "{n} 词元/秒"], stop: ["Stop texts, one a line", "停止文本，每行一个"],
  stopAnswer: ["Stop", "停止"], stopped: ["stopped", "已停止"], system: ["System prompt", "系统提示词"],
  systemHelp: ["How the model should behave in this conversation", "希望模型在此对话中如何表现"], temperature: ["Temperature", "温度"],
  theme: ["Colours", "颜色"], tokens: ["{n} tokens", "{n} 个词元"], tokensOf: ["{n} of {most} tokens", "{n} / {most} 个词元"], tooBig: ["This file is too large.", "文件过大。"],
  top_k: ["Top-k", "Top-k"], top_p: ["Top-p", "Top-p"], undo: ["Undo", "撤销"], version: ["{n} of {all}", "{n} / {all}"],
};

const which = () => (document.documentElement.lang.startsWith("zh") ? 1 : 0);

export const t = (key, values = {}) =>
  Object.entries(values).reduce((text, [name, value]) => text.replace(`{${name}}`, () => value), WORDS[key][which()]);

export const number = (value, digits = 0) =>
  value.toLocaleString(document.documentElement.lang, { minimumFractionDigits: digits, maximumFractionDigits: digits });

// language: "en", "zh" or "" for the browser's. Elements name their words: data-t as text, data-label as label.
export function setLanguage(language) {
  document.documentElement.lang = (language || navigator.language).startsWith("zh") ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
    if (element.matches("button, select")) element.title = t(element.dataset.label);
    if (element.matches("input, textarea")) element.placeholder = t(element.dataset.hint ?? element.dataset.label);
  }
}

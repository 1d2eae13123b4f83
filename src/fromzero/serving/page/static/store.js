// Conversations, kept in this browser only: the list in one table, the whole of each in another.
import { restore } from "./conversation.js";

export const MOST = 500; // conversations
const MOST_BYTES = 64e6; // of a file that is read
const FORMAT = "fromzero-conversations";

const asked = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const opening = indexedDB.open("fromzero", 1);
opening.onupgradeneeded = () => ["list", "whole"].forEach((name) => opening.result.createObjectStore(name, { keyPath: "id" }));
const database = asked(opening);
const others = new BroadcastChannel("fromzero"); // other tabs of the page

export const whenChangedElsewhere = (call) => others.addEventListener("message", call);

async function change(work) {
  const transaction = (await database).transaction(["list", "whole"], "readwrite");
  const finished = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
  work(transaction.objectStore("list"), transaction.objectStore("whole"));
  await finished;
  others.postMessage("changed");
}

const read = async (table) => (await database).transaction(table).objectStore(table);

export const list = async () => (await asked((await read("list")).getAll())).sort((a, b) => b.changed - a.changed);
export const load = async (id) => asked((await read("whole")).get(id));
export const remove = (id) => change((...tables) => tables.forEach((table) => table.delete(id)));

export const save = (...conversations) =>
  change((list, whole) => {
    for (const conversation of conversations) {
      const { id, title, changed } = conversation;
      list.put({ id, title, changed });
      whole.put(conversation);
    }
  });

// Ids of the conversations that hold the text.
export async function search(text) {
  const wanted = text.toLowerCase();
  const holds = ({ title, nodes }) => [title, ...nodes.map((n) => n.text)].some((t) => t.toLowerCase().includes(wanted));
  const found = new Set();
  const request = (await read("whole")).openCursor();
  for (let cursor = await asked(request); cursor; cursor = await asked(request)) {
    if (holds(cursor.value)) found.add(cursor.value.id);
    cursor.continue();
  }
  return found;
}

export async function exportAll() {
  const conversations = await asked((await read("whole")).getAll());
  return new Blob([JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1)], { type: "application/json" });
}

// How many came in; throws where the file is none of ours.
export async function importAll(file) {
  if (file.size > MOST_BYTES) throw new Error("size");
  const { format, conversations } = JSON.parse(await file.text());
  if (format !== FORMAT) throw new Error("format");
  const restored = conversations.map(restore);
  if ((await list()).length + restored.length > MOST) throw new Error("room");
  await save(...restored);
  return restored.length;
}

/**
 * Completion scripts from a list of places in the command line. All three shells use one method:
 * walk the words that are there to find the place (its *route*, for instance "fs init"), then offer the
 * commands, options or choices of that place, and file names where there are none.
 *
 * @module
 */

/** The shells that scripts are written for. */
export const shells = ["bash", "zsh", "fish"] as const;

/** One of them. */
export type Shell = (typeof shells)[number];

/** One option: its names, and what may follow it. */
export interface CompletionOption {
  names: readonly string[];
  takesValue: boolean;
  /** Empty where any value, mostly a file, may follow. */
  choices: readonly string[];
}

/** One place in the command line. */
export interface CompletionNode {
  /** The words that lead there; empty for `drover` itself. */
  route: string;
  commands: readonly { name: string; summary: string }[];
  options: readonly CompletionOption[];
  operandChoices: readonly string[];
}

/** The script for one shell. */
export function completionScript(shell: Shell, nodes: readonly CompletionNode[]): string {
  switch (shell) {
    case "bash":
      return bashScript(nodes);
    case "zsh":
      return zshScript(nodes);
    case "fish":
      return fishScript(nodes);
  }
}

/** `" fs"`, `"fs init"`: the route so far, a space, and a word that leads on. */
function steps(nodes: readonly CompletionNode[]): string {
  return nodes.flatMap((node) => node.commands.map((child) => quote(`${node.route} ${child.name}`))).join(
    " | ",
  );
}

/** One `case` branch for each option with fixed choices. */
function valueCases(nodes: readonly CompletionNode[], reply: (choices: string) => string): string {
  return nodes.flatMap((node) =>
    node.options.filter((option) => option.takesValue).map((option) => {
      const pattern = option.names.map((name) => quote(`${node.route} ${name}`)).join(" | ");
      return `    ${pattern}) ${reply(option.choices.join(" "))} ;;\n`;
    })
  ).join("");
}

function optionNames(node: CompletionNode): string {
  return node.options.flatMap((option) => option.names).join(" ");
}

function bashScript(nodes: readonly CompletionNode[]): string {
  const places = nodes.map((node) => {
    const words = [...node.commands.map((child) => child.name), ...node.operandChoices].join(" ");
    return `    ${quote(node.route)}) words=${quote(words)} options=${quote(optionNames(node))} ;;\n`;
  }).join("");
  return `# bash completion for drover
_drover() {
  local word=\${COMP_WORDS[COMP_CWORD]} route= words= options= at
  COMPREPLY=()
  for ((at = 1; at < COMP_CWORD; at++)); do
    case "$route \${COMP_WORDS[at]}" in
      ${steps(nodes)})
        route=\${route:+$route }\${COMP_WORDS[at]} ;;
    esac
  done
  case "$route \${COMP_WORDS[COMP_CWORD - 1]}" in
${
    valueCases(nodes, (choices) =>
      choices === "" ? "return" : `mapfile -t COMPREPLY < <(compgen -W ${quote(choices)} -- "$word"); return`)
  }  esac
  case $route in
${places}  esac
  if [[ $word == -* ]]; then words=$options; fi
  if [[ $words ]]; then mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word"); fi
}
complete -o default -F _drover drover
`;
}

function zshScript(nodes: readonly CompletionNode[]): string {
  const places = nodes.map((node) => {
    const described = node.commands.map((child) =>
      quote(`${child.name}:${child.summary.replaceAll(":", "\\:")}`)
    );
    const offer = described.length > 0
      ? `list=(${described.join(" ")}); _describe command list`
      : node.operandChoices.length > 0
      ? `compadd -- ${node.operandChoices.join(" ")}`
      : "_files";
    return `    ${quote(node.route)})\n      if [[ $word == -* ]]; then compadd -- ${
      optionNames(node)
    }; else ${offer}; fi ;;\n`;
  }).join("");
  return `#compdef drover
_drover() {
  local word=\${words[CURRENT]} route= at
  local -a list
  for ((at = 2; at < CURRENT; at++)); do
    case "$route \${words[at]}" in
      (${steps(nodes)})
        route=\${route:+$route }\${words[at]} ;;
    esac
  done
  case "$route \${words[CURRENT - 1]}" in
${valueCases(nodes, (choices) => choices === "" ? "_files; return" : `compadd -- ${choices}; return`)}  esac
  case $route in
${places}  esac
}
if [[ $funcstack[1] == _drover ]]; then _drover "$@"; else compdef _drover drover; fi
`;
}

function fishScript(nodes: readonly CompletionNode[]): string {
  const lines: string[] = [];
  for (const node of nodes) {
    const at = `complete -c drover -n ${quote(`__drover_at ${quote(node.route)}`)}`;
    for (const child of node.commands) lines.push(`${at} -f -a ${child.name} -d ${quote(child.summary)}`);
    if (node.operandChoices.length > 0) lines.push(`${at} -f -a ${quote(node.operandChoices.join(" "))}`);
    for (const option of node.options) {
      const names = option.names.map((name) =>
        name.startsWith("--") ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`
      );
      const value = !option.takesValue
        ? ""
        : option.choices.length > 0
        ? ` -x -a ${quote(option.choices.join(" "))}`
        : " -r -F";
      lines.push(`${at} ${names.join(" ")}${value}`);
    }
  }
  return `# fish completion for drover
function __drover_at
    set -l route ''
    for word in (commandline -opc)[2..-1]
        switch "$route $word"
            case ${steps(nodes).replaceAll(" | ", " ")}
                set route (string trim -- "$route $word")
        end
    end
    test "$route" = "$argv[1]"
end
${lines.join("\n")}
`;
}

/** A single-quoted word; fish reads `'\\''` the same way as the others. */
function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

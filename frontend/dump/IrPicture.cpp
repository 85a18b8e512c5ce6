#include "frontend/dump/Stages.h"

#include "graph/Dot.h"

#include <cctype>
#include <sstream>
#include <unordered_map>

namespace terra::dump {

namespace {

std::string trimmed(const std::string &line) {
  size_t first = line.find_first_not_of(" \t"), last = line.find_last_not_of(" \t\r");
  return first == std::string::npos ? "" : line.substr(first, last - first + 1);
}

bool startsWith(const std::string &text, const char *prefix) { return text.rfind(prefix, 0) == 0; }

/// "op … \"train.py:12 in f\"" → the op and the line.
graph::DotRow splitLine(const std::string &line) {
  if (line.size() < 2 || line.back() != '"')
    return {line, ""};
  size_t open = line.rfind('"', line.size() - 2);
  if (open == std::string::npos || open == 0)
    return {line, ""};
  return {trimmed(line.substr(0, open)), line.substr(open + 1, line.size() - open - 2)};
}

/// The names of values ("%12", "%arg0") in a piece of an op, in order.
std::vector<std::string> valuesIn(const std::string &text) {
  std::vector<std::string> names;
  for (size_t at = 0; (at = text.find('%', at)) != std::string::npos;) {
    size_t end = at + 1;
    while (end < text.size() && (std::isalnum((unsigned char)text[end]) || text[end] == '_'))
      ++end;
    names.push_back(text.substr(at, end - at));
    at = end;
  }
  return names;
}

/// Reads the printed form of terra's dialect, one op a line. Values are joined with their uses; storages, with whoever wrote
/// them last.
class ValuePicture {
public:
  explicit ValuePicture(std::string prefix) : prefix_(std::move(prefix)) {}

  std::string run(const std::string &ir) {
    std::istringstream lines(ir);
    for (std::string line; std::getline(lines, line);)
      add(trimmed(line));
    while (depth_ > 0)
      close();
    return nodes_ + edges_;
  }

private:
  void add(const std::string &line) {
    if (line.empty() || line[0] == '#')
      return;
    if (startsWith(line, "//")) {
      node(line, "", "#e3e3e3");
      return;
    }
    if (line[0] == '}')
      return close();
    if (startsWith(line, "terra.group") && line.back() == '{')
      return open(line.substr(0, line.size() - 1));
    if (line.back() == '{') { // the module and the segment: their ops stand by themselves
      plain_.push_back(true);
      ++depth_;
      return;
    }
    op(line);
  }

  void open(const std::string &title) {
    plain_.push_back(false);
    ++depth_;
    nodes_ += "  subgraph \"cluster_" + prefix_ + "group" + std::to_string(groups_++) +
              "\" { style=filled; fillcolor=\"#eef6ec\"; label=" + graph::dotQuote(trimmed(title)) + ";\n";
    inner_.clear();
    inGroup_ = true;
  }

  void close() {
    if (depth_ == 0)
      return;
    --depth_;
    if (!plain_.back()) {
      nodes_ += "  }\n";
      inGroup_ = false;
    }
    plain_.pop_back();
  }

  void op(const std::string &line) {
    graph::DotRow row = splitLine(line);
    size_t equal = row.text[0] == '%' ? row.text.find(" = ") : std::string::npos;
    std::string body = equal == std::string::npos ? row.text : row.text.substr(equal + 3);
    std::vector<std::string> used = valuesIn(body.substr(0, body.find(" : ")));
    if (startsWith(body, "terra.slot") && body.find("external") == std::string::npos)
      return; // a storage made inside: it is joined with its writer
    for (const std::string &name : used)
      if (auto from = find(name); !from.empty())
        edges_ += "  " + from + " -> " + prefix_ + std::to_string(count_) + " [label=" + graph::dotQuote(name) + "];\n";
    std::string id = node(row.text, row.line, startsWith(body, "terra.extern") ? "#f6d5a8" : "#bcd6f0");
    if (equal != std::string::npos)
      for (const std::string &name : valuesIn(row.text.substr(0, equal)))
        (inGroup_ ? inner_ : outer_)[name] = id;
    if (startsWith(body, "terra.write") && used.size() >= 2)
      outer_[used[1]] = id;
    if (size_t writes = body.find("writes("); startsWith(body, "terra.extern") && writes != std::string::npos)
      for (const std::string &name : valuesIn(body.substr(writes)))
        outer_[name] = id;
  }

  std::string node(const std::string &text, const std::string &line, const char *color) {
    std::string id = prefix_ + std::to_string(count_++);
    nodes_ += graph::dotTable(id, text, color,
                              line.empty() ? std::vector<graph::DotRow>{} : std::vector<graph::DotRow>{{"", line}});
    return id;
  }

  std::string find(const std::string &name) const {
    if (auto it = inner_.find(name); inGroup_ && it != inner_.end())
      return it->second;
    auto it = outer_.find(name);
    return it == outer_.end() ? "" : it->second;
  }

  std::string prefix_, nodes_, edges_;
  size_t count_ = 0, groups_ = 0, depth_ = 0;
  std::vector<bool> plain_;
  bool inGroup_ = false;
  std::unordered_map<std::string, std::string> outer_, inner_; ///< value → node; names of groups hide those outside
};

/// The symbol whose code begins with this line, or nothing.
std::string functionAt(const std::string &line) {
  std::string text = trimmed(line);
  size_t at = std::string::npos;
  if (startsWith(text, "func.func") || startsWith(text, "llvm.func") || startsWith(text, "define "))
    at = text.find('@');
  else if (startsWith(text, ".globl"))
    at = text.find_last_of(" \t");
  if (at == std::string::npos)
    return "";
  size_t end = text.find('(', at);
  return text.substr(at + 1, end == std::string::npos ? end : end - at - 1);
}

} // namespace

std::string valuePicture(const std::string &ir, const std::string &prefix) { return ValuePicture(prefix).run(ir); }

std::string functionPicture(const std::string &code, const std::vector<std::pair<std::string, std::string>> &kernels,
                            const std::string &prefix) {
  std::string text, body, name;
  size_t count = 0;
  auto finish = [&] {
    if (trimmed(body).empty())
      return;
    std::string title = name;
    for (const auto &[kernel, line] : kernels)
      if (name == kernel || name == kernel + "_body")
        title += "\n" + line;
    text += "  " + prefix + std::to_string(count++) +
            " [shape=box label=" + graph::dotQuote((title.empty() ? "" : title + "\n\n") + body) + "];\n";
    body.clear();
  };
  std::istringstream lines(code);
  for (std::string line; std::getline(lines, line); body += line + "\n")
    if (std::string next = functionAt(line); !next.empty()) {
      finish();
      name = next;
    }
  finish();
  return text;
}

} // namespace terra::dump

#include "frontend/dump/Graphviz.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <spawn.h>
#include <stdexcept>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern char **environ;

namespace terra::dump {

namespace {

/// A file with `text` that goes away with this object. (A pipe would need a thread: dot writes while it reads.)
class TemporaryFile {
public:
  explicit TemporaryFile(const std::string &text)
      : path_(std::filesystem::temp_directory_path() / "terra-dump-XXXXXX") {
    int file = mkstemp(path_.data());
    if (file < 0)
      throw std::runtime_error(path_ + ": " + std::strerror(errno));
    size_t done = 0;
    while (done < text.size()) {
      ssize_t n = ::write(file, text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        break;
      done += size_t(n);
    }
    ::close(file);
    if (done < text.size()) {
      std::filesystem::remove(path_);
      throw std::runtime_error(path_ + ": writing failed: " + std::strerror(errno));
    }
  }
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile &) = delete;
  const std::string &path() const { return path_; }

private:
  std::string path_;
};

} // namespace

namespace {
/// Starts `dot`. Its remarks on fonts and sizes are not for our users.
pid_t start(const std::vector<char *> &argv) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  int error = posix_spawnp(&child, "dot", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT)
    throw std::runtime_error("Graphviz's program `dot` was not found; install graphviz, or use --format dot");
  if (error)
    throw std::runtime_error(std::string("Graphviz's program `dot` cannot be started: ") + std::strerror(error));
  return child;
}
} // namespace

void writeSvg(const std::string &source, const std::string &output) {
  errno = 0;
  if (!output.empty() && !std::ofstream(output, std::ios::app))
    throw std::runtime_error(output + ": cannot be written" + (errno ? std::string(": ") + std::strerror(errno) : ""));
  TemporaryFile input(source);
  std::vector<std::string> words = {"dot", "-Tsvg", input.path()};
  if (!output.empty())
    words.push_back("-o" + output);
  std::vector<char *> argv;
  for (std::string &word : words)
    argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t child = start(argv);
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      throw std::runtime_error(std::string("waiting for `dot` failed: ") + std::strerror(errno));
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw std::runtime_error("Graphviz's program `dot` failed; --format dot shows what it was given");
}

} // namespace terra::dump

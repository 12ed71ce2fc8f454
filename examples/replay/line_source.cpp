// SPDX-FileCopyrightText: The Oriel authors
// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <replay/line_source.hpp>
#include <replay/read_trace.hpp>

#include <array>
#include <cerrno>
#include <cstring>
#include <new>
#include <system_error>
#include <utility>
#include <vector>

#ifdef ORIEL_HAS_ZSTD
#include <zstd.h>
#endif

namespace oriel::replay {
namespace {

constexpr std::size_t piece_bytes = std::size_t{1} << 20;

/// A file, or a pipe, read once.
class input_file {
 public:
  explicit input_file(const std::filesystem::path& path)
      : name_(path.string()), file_(std::fopen(path.c_str(), "rb")) {
    if (file_ == nullptr) {
      refuse();
    }
    start_bytes_ = std::fread(start_.data(), 1, start_.size(), file_.get());
    if (std::ferror(file_.get()) != 0) {
      refuse();
    }
  }

  /// The first bytes, less in a shorter file.
  [[nodiscard]] std::string_view start() const noexcept { return {start_.data(), start_bytes_}; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Bytes that `read` gave so far.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return bytes_read_; }

  /// @returns how many bytes came, 0 at the end alone @pre bytes >= 4
  [[nodiscard]] std::size_t read(char* to, std::size_t bytes) {
    std::size_t got = 0;
    if (bytes_read_ == 0) {
      got = start_bytes_;
      std::memcpy(to, start_.data(), got);
    }
    got += std::fread(to + got, 1, bytes - got, file_.get());
    if (std::ferror(file_.get()) != 0) {
      refuse();
    }
    bytes_read_ += got;
    return got;
  }

 private:
  struct closed {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };

  [[noreturn]] void refuse() const {
    throw trace_error(
        fmt::format("cannot read the trace {}: {}", name_, std::generic_category().message(errno)));
  }

  std::string name_;
  std::unique_ptr<std::FILE, closed> file_;
  std::array<char, 4> start_{};
  std::size_t start_bytes_ = 0;
  std::uint64_t bytes_read_ = 0;
};

class plain_bytes final : public byte_source {
 public:
  explicit plain_bytes(input_file file) : file_(std::move(file)) {}

  [[nodiscard]] bool read(std::string& text) override {
    const std::size_t size = text.size();
    text.resize(size + piece_bytes);
    const std::size_t got = file_.read(text.data() + size, piece_bytes);
    text.resize(size + got);
    return got > 0;
  }

 private:
  input_file file_;
};

#ifdef ORIEL_HAS_ZSTD

class zstd_bytes final : public byte_source {
 public:
  explicit zstd_bytes(input_file file)
      : file_(std::move(file)), stream_(ZSTD_createDStream()), packed_(ZSTD_DStreamInSize()) {
    constexpr int window_log_max = 27;  // What zstd --long=27 writes.
    if (stream_ == nullptr || ZSTD_isError(ZSTD_DCtx_setParameter(
                                  stream_.get(), ZSTD_d_windowLogMax, window_log_max)) != 0) {
      throw std::bad_alloc{};
    }
  }

  [[nodiscard]] bool read(std::string& text) override {
    const std::size_t size = text.size();
    text.resize(size + piece_bytes);
    ZSTD_outBuffer out{text.data() + size, piece_bytes, 0};
    bool more = true;
    while (more && out.pos == 0) {
      more = step(out);
    }
    text.resize(size + out.pos);
    return out.pos > 0;
  }

 private:
  /// @returns false at the end of the last frame
  bool step(ZSTD_outBuffer& out) {
    bool more = true;
    if (in_.pos == in_.size) {
      in_ = {packed_.data(), file_.read(packed_.data(), packed_.size()), 0};
      more = in_.size > 0;
    }
    if (!more && left_ == 0) {
      return false;
    }
    left_ = ZSTD_decompressStream(stream_.get(), &out, &in_);
    if (ZSTD_isError(left_) != 0) {
      throw trace_error(
          fmt::format("{}: damaged zstd data before byte {} ({}): copy the file again",
                      file_.name(),
                      file_.bytes_read() - (in_.size - in_.pos),
                      ZSTD_getErrorName(left_)));
    }
    if (!more && out.pos == 0 && left_ != 0) {
      throw trace_error(
          fmt::format("{}: the zstd data is cut off after {} bytes, in the middle of a frame: copy "
                      "the file again",
                      file_.name(),
                      file_.bytes_read()));
    }
    return true;
  }

  struct freed {
    void operator()(ZSTD_DStream* stream) const noexcept { ZSTD_freeDStream(stream); }
  };

  input_file file_;
  std::unique_ptr<ZSTD_DStream, freed> stream_;
  std::vector<char> packed_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  std::size_t left_ = 0;  // What the last call returned; 0: a frame is complete.
};

#endif

}  // namespace

std::unique_ptr<byte_source> open_bytes(const std::filesystem::path& file) {
  input_file opened{file};
  if (opened.start() != "\x28\xB5\x2F\xFD") {
    return std::make_unique<plain_bytes>(std::move(opened));
  }
#ifdef ORIEL_HAS_ZSTD
  return std::make_unique<zstd_bytes>(std::move(opened));
#else
  throw trace_error(fmt::format(
      "{} is zstd-compressed, and this program was built without libzstd: decompress it "
      "(zstd -d --long=27), or install libzstd-dev and build again",
      opened.name()));
#endif
}

line_source::line_source(const std::filesystem::path& file,
                         std::uint64_t line_bytes_max,
                         std::uint64_t file_bytes_max)
    : name_(file.string()),
      line_bytes_max_(line_bytes_max),
      file_bytes_max_(file_bytes_max),
      bytes_(open_bytes(file)) {}

bool line_source::next() {
  while (next_any()) {
    if (line_.find_first_not_of(" \t\r") != std::string_view::npos) {
      return true;
    }
  }
  return false;
}

bool line_source::next_any() {
  ++number_;
  std::size_t searched = begin_;
  for (;;) {
    const std::size_t end = text_.find('\n', searched);
    const std::size_t stop = end == std::string::npos ? text_.size() : end;
    if (stop - begin_ > line_bytes_max_) {
      throw trace_error(fmt::format(
          "{}: the line has more than {} bytes: not a trace of one JSON object per line",
          place(),
          line_bytes_max_));
    }
    if (end != std::string::npos || ended_) {
      line_ = std::string_view{text_}.substr(begin_, stop - begin_);
      const bool any = end != std::string::npos || !line_.empty();
      begin_ = end == std::string::npos ? stop : end + 1;
      return any;
    }
    text_.erase(0, begin_);
    begin_ = 0;
    searched = text_.size();
    read_more();
  }
}

void line_source::read_more() {
  const std::size_t before = text_.size();
  ended_ = !bytes_->read(text_);
  read_ += text_.size() - before;
  if (read_ > file_bytes_max_) {
    throw trace_error(
        fmt::format("{}: the file has more than {} bytes of text: cut it into smaller traces",
                    place(),
                    file_bytes_max_));
  }
}

std::string line_source::place() const {
  return fmt::format("{}:{}", name_, number_);
}

}  // namespace oriel::replay

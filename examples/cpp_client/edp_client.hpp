// A client of the policy server for robot controllers in C++17: this header and libzmq (4.2 or later).
//
//     edp::Client client("tcp://127.0.0.1:5599");
//     client.reset(7);
//     const edp::Action &action = client.act(obs, 8ms);  // or edp::Timeout: hold the last action
//
// The bytes are specified in docs/wire.md, version 2. One client is for one thread.
#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#if __has_include(<zmq.h>)
#include <zmq.h>
#else
#include "zmq_abi.h"
#endif

namespace edp {

static_assert(sizeof(float) == 4 && std::numeric_limits<float>::is_iec559, "the wire carries IEEE 754 binary32");
#ifdef __BYTE_ORDER__
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire is little-endian, and this client does not swap");
#endif

using Clock = std::chrono::steady_clock;
using Duration = std::chrono::nanoseconds;
static_assert(std::is_same_v<Clock::duration, Duration> && Clock::is_steady);

/// How a request ended. docs/wire.md says what to do about each.
enum class Status : std::uint16_t {
    ok, malformed, bad_version, bad_length, not_finite, late, unknown_type, unsupported, internal, overloaded,
    superseded
};

/// The base of the errors that calls throw. Thrown itself when libzmq fails.
struct Error : std::runtime_error { using std::runtime_error::runtime_error; };

/// No answer came before the deadline. A later answer is dropped.
struct Timeout : Error { using Error::Error; };

/// The server refused the request (its status), or its answer is unusable (malformed, bad_length, not_finite).
struct Refused : Error {
    Refused(Status code, const std::string &message) : Error(message), status(code) {}
    Status status;
};

/// Options of a client. The keys are Z85 strings of 40 characters: all three with CURVE, else none.
struct Options {
    Duration timeout = std::chrono::seconds(1);  ///< How long hello and reset wait.
    std::size_t n_values = 0;                    ///< horizon x act_dim of an answer; 0 accepts any.
    std::string server_public{}, public_key{}, secret_key{};
};

/// A view of floats that it does not own.
struct Floats {
    Floats(const float *first, std::size_t count) : data(first), n(count) {}
    Floats(const std::vector<float> &values) : data(values.data()), n(values.size()) {}
    const float *data;
    std::size_t n;
};

/// An answer of the policy.
struct Action {
    std::vector<float> values;       ///< The chunk, horizon x act_dim, one action after the other, physical units.
    std::uint64_t sequence = 0;      ///< The observation that it answers.
    std::uint32_t queue_us = 0;      ///< In the server: from arrival to the start of the work [us].
    std::uint32_t inference_us = 0;  ///< In the policy [us].
    std::uint32_t server_us = 0;     ///< In the server: from arrival to the end of the work [us].
    std::uint32_t valid_us = 0;      ///< How long the chunk is meant to be executed, from `sent` on [us].
    std::uint32_t n_seen = 0;        ///< Observations in the policy's memory, 0 if it has none. Unless it rises from
                                     ///< answer to answer until the next reset, the memory was lost.
    std::uint8_t policy[8] = {};     ///< First bytes of the sha256 of the bundle that answered.
    Clock::time_point sent{};        ///< When the observation was sent.
    Duration roundtrip{};            ///< From `sent` until the answer was read here.
};

namespace wire {
constexpr std::size_t max_frame_bytes = 1 << 20;
enum Kind : std::uint8_t { act = 1, act_reply = 2, error = 3, control = 4, control_reply = 5 };

/// Every field lies on its natural boundary, so the struct has the layout of the wire.
struct Header {
    char magic[4] = {'E', 'D', 'P', '1'};
    std::uint8_t version = 2, kind = 0;
    std::uint16_t status = 0;
    std::uint64_t sequence = 0;
    std::int64_t client_time_ns = 0;
    std::uint32_t budget_us = 0, payload_bytes = 0, queue_us = 0, inference_us = 0, server_us = 0, valid_us = 0;
    std::uint8_t policy[8] = {};
};
static_assert(sizeof(Header) == 56 && std::is_trivially_copyable_v<Header>);

/// Returns whether all floats are finite. It tests their bits, which -ffast-math cannot remove.
inline bool all_finite(const char *floats, std::size_t n_bytes) {
    for (std::size_t at = 0; at < n_bytes; at += 4) {
        std::uint32_t bits;
        std::memcpy(&bits, floats + at, 4);
        if ((bits & 0x7f800000) == 0x7f800000) return false;  // the exponent is all ones
    }
    return true;
}
}  // namespace wire

/// A policy that runs in a server. The client reconnects by itself and keeps its session. hello, reset and act drop
/// the answers to earlier calls of `send`.
class Client {
public:
    /// Connects in the background. Throws std::invalid_argument if libzmq refuses the endpoint or a key.
    explicit Client(const std::string &endpoint, const Options &options = {})
        : endpoint_(endpoint), options_(options) {
        if (!connection_.socket) fail("open a socket");
        const std::pair<int, int> numbers[] = {
            {ZMQ_LINGER, 0}, {ZMQ_IMMEDIATE, 1} /* no queue while the server is away */,
            {ZMQ_RECONNECT_IVL, 20}, {ZMQ_RECONNECT_IVL_MAX, 500}, {ZMQ_HEARTBEAT_IVL, 1000},
            {ZMQ_HEARTBEAT_TIMEOUT, 3000}, {ZMQ_IPV6, endpoint.find('[') != std::string::npos}};
        for (const auto &[option, value] : numbers) set(option, &value, sizeof value);
        const std::int64_t max_bytes = wire::max_frame_bytes;
        set(ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
        std::random_device random;
        std::string id = "c";  // keeps the session over a reconnect; random, so that it cannot be guessed
        while (id.size() < 17) id.push_back(static_cast<char>(random() & 0xff));
        set(ZMQ_ROUTING_ID, id.data(), id.size());
        set_keys();
        if (zmq_connect(connection_.socket, endpoint.c_str()) != 0)
            reject("endpoint '" + endpoint + "', expected tcp://HOST:PORT or ipc://PATH");
    }

    /// Returns the server's JSON (docs/wire.md): manifest, bundle_hash and more. Throws Timeout or Refused.
    std::string hello() { return control("{\"op\": \"hello\"}"); }

    /// Begins an episode, with an empty memory. Restarts the session's noise at `seed`, in [0, 2^63), or continues it.
    /// Throws Timeout or Refused.
    void reset(std::optional<std::int64_t> seed = std::nullopt) {
        control("{\"op\": \"reset\", \"seed\": " + (seed ? std::to_string(*seed) : "null") + "}");
    }

    /// Returns the action for `obs` (obs_dim,), after `deadline` at most. It stays valid until the next answer is
    /// read. Throws Timeout or Refused, and then last() keeps its value.
    const Action &act(Floats obs, Duration deadline) {
        request(wire::act, obs.data, obs.n * sizeof(float), deadline);
        return accept();
    }

    /// Sends an obs (obs_dim,) without waiting. The server drops it once it has waited for `budget`. Returns its
    /// sequence, or 0 if it was not sent: there is no connection, or too much is unsent.
    [[nodiscard]] std::uint64_t send(Floats obs, Duration budget) {
        return try_send(wire::act, obs.data, obs.n * sizeof(float), Clock::now(), budget) ? sequence_ : 0;
    }

    /// Returns the newest answer that has come since last(), or nullptr, without waiting. Throws Refused if an
    /// observation was refused. Superseded ones are skipped, because a newer one is on its way.
    const Action *try_receive() {
        bool found = false;
        for (; receive(wire::act_reply); found = true) accept();
        return found ? &last_ : nullptr;
    }

    /// Returns the last action received. It is empty before the first.
    const Action &last() const { return last_; }

private:
    struct Connection {
        void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_DEALER);
        zmq_msg_t message;  // the last one read

        Connection() { zmq_msg_init(&message); }
        ~Connection() {
            zmq_msg_close(&message);
            if (socket) zmq_close(socket);
            while (zmq_ctx_term(context) != 0 && zmq_errno() == EINTR) {}
        }
        Connection(const Connection &) = delete;
        Connection &operator=(const Connection &) = delete;
    };

    void set(int option, const void *value, std::size_t n_bytes) {
        if (zmq_setsockopt(connection_.socket, option, value, n_bytes) != 0)
            reject("ZeroMQ option " + std::to_string(option));
    }

    void set_keys() {
        const std::pair<int, const std::string &> keys[] = {{ZMQ_CURVE_SERVERKEY, options_.server_public},
                                                            {ZMQ_CURVE_PUBLICKEY, options_.public_key},
                                                            {ZMQ_CURVE_SECRETKEY, options_.secret_key}};
        if (std::all_of(keys, keys + 3, [](const auto &key) { return key.second.empty(); })) return;
        for (const auto &[option, key] : keys) {
            if (key.size() != 40 || zmq_setsockopt(connection_.socket, option, key.data(), key.size()) != 0)
                reject("a CURVE key of " + std::to_string(key.size()) + " characters, expected three of 40 (Z85)");
        }
    }

    [[noreturn]] static void fail(const char *what) {
        throw Error(std::string("cannot ") + what + ": " + zmq_strerror(zmq_errno()));
    }

    [[noreturn]] static void reject(const std::string &what) {
        throw std::invalid_argument(what + "; libzmq's last error: " + zmq_strerror(zmq_errno()));
    }

    std::string control(const std::string &json) {
        request(wire::control, json.data(), json.size(), options_.timeout);
        return {payload(), head_.payload_bytes};
    }

    /// Sends and waits until the answer is in head_ and connection_.message.
    void request(wire::Kind kind, const void *data, std::size_t n_bytes, Duration limit) {
        const auto start = Clock::now(), deadline = start + std::min<Duration>(limit, std::chrono::hours(24));
        while (!try_send(kind, data, n_bytes, start, limit)) wait(ZMQ_POLLOUT, deadline, "not connected");
        settled_ = sequence_ - 1;
        while (!receive(kind + 1)) wait(ZMQ_POLLIN, deadline, "no reply");
        settled_ = sequence_;
    }

    /// Returns whether the request could be sent now.
    bool try_send(wire::Kind kind, const void *data, std::size_t n_bytes, Clock::time_point start, Duration limit) {
        const std::size_t size = sizeof(wire::Header) + n_bytes;
        if (size > wire::max_frame_bytes)
            throw Refused(Status::bad_length, std::to_string(size) + " bytes, a message holds at most 1048576");
        wire::Header head;
        head.kind = kind;
        head.sequence = sequence_ + 1;
        head.client_time_ns = start.time_since_epoch().count();
        head.payload_bytes = static_cast<std::uint32_t>(n_bytes);
        const auto limit_us = std::chrono::duration_cast<std::chrono::microseconds>(limit).count();
        if (kind == wire::act)  // a budget of 0 would mean no limit
            head.budget_us = static_cast<std::uint32_t>(std::clamp<std::int64_t>(limit_us, 1, 0xffffffff));
        frame_.resize(size);
        std::memcpy(frame_.data(), &head, sizeof head);
        if (n_bytes) std::memcpy(frame_.data() + sizeof head, data, n_bytes);
        if (zmq_send(connection_.socket, frame_.data(), size, ZMQ_DONTWAIT) >= 0) return ++sequence_;
        if (zmq_errno() == EAGAIN || zmq_errno() == EINTR) return false;
        fail("send");
    }

    /// Waits until the socket can send or receive. Throws Timeout at the deadline.
    void wait(short event, Clock::time_point deadline, const char *what) {
        using namespace std::chrono;
        zmq_pollitem_t item{connection_.socket, 0, event, 0};
        for (;;) {
            const auto left = deadline - Clock::now();
            const auto left_ms = std::clamp<std::int64_t>(duration_cast<milliseconds>(left).count(), 0, 1000);
            const int n_ready = zmq_poll(&item, 1, static_cast<long>(left_ms));
            if (n_ready > 0) return;
            if (n_ready < 0 && zmq_errno() != EINTR) fail("wait");
            if (left <= Duration::zero()) {
                settled_ = sequence_;  // an answer would come too late now
                throw Timeout(what + (" within the deadline: " + endpoint_) +
                              "; is the server running there (edp serve), and does it answer that fast?");
            }
            if (left < milliseconds(1)) std::this_thread::sleep_for(std::min<Duration>(left, microseconds(50)));
        }
    }

    /// Reads until it has read an answer of this kind that is not settled. Returns false if none has come.
    bool receive(int kind) {
        while (read()) {
            const bool current = head_.sequence > settled_ && head_.sequence <= sequence_;
            if (current && head_.kind == kind) return true;
            if (head_.kind != wire::error || !(current || head_.sequence == 0)) continue;  // stale
            const auto status = static_cast<Status>(head_.status);
            if (status == Status::superseded && head_.sequence < sequence_) continue;
            throw Refused(status, std::string(payload(), head_.payload_bytes));
        }
        return false;
    }

    /// Reads one message into head_ and connection_.message. Returns false if none has come.
    bool read() {
        zmq_msg_t *message = &connection_.message;
        if (zmq_msg_recv(message, connection_.socket, ZMQ_DONTWAIT) < 0) {
            if (zmq_errno() == EAGAIN || zmq_errno() == EINTR) return false;
            fail("receive");
        }
        const bool single = zmq_msg_more(message) == 0;
        while (zmq_msg_more(message)) zmq_msg_recv(message, connection_.socket, 0);  // frames arrive together
        const std::size_t size = zmq_msg_size(message);
        if (size >= sizeof head_) std::memcpy(&head_, zmq_msg_data(message), sizeof head_);
        const wire::Header ours;
        if (!single || size < sizeof head_ || std::memcmp(head_.magic, ours.magic, 4) != 0)
            throw Refused(Status::malformed, endpoint_ + " sent what is not this protocol");
        if (head_.version != ours.version)
            throw Refused(Status::bad_version, endpoint_ + " does not speak version 2: update it or this client");
        if (head_.payload_bytes != size - sizeof head_)
            throw Refused(Status::bad_length, endpoint_ + " sent a payload of another length than its header says");
        return true;
    }

    /// Copies the answer into last_. Throws Refused if it is no action.
    const Action &accept() {
        const std::size_t n = head_.payload_bytes / sizeof(float);
        if (head_.payload_bytes % sizeof(float) != 0 || (options_.n_values != 0 && n != options_.n_values))
            throw Refused(Status::bad_length, "the server's action has " + std::to_string(head_.payload_bytes) +
                                                  " bytes, expected " + std::to_string(4 * options_.n_values));
        if (!wire::all_finite(payload(), head_.payload_bytes))
            throw Refused(Status::not_finite, "the server's action holds NaN or infinity");
        settled_ = head_.sequence;
        last_.values.resize(n);
        if (n) std::memcpy(last_.values.data(), payload(), head_.payload_bytes);
        last_.sequence = head_.sequence;
        last_.queue_us = head_.queue_us, last_.inference_us = head_.inference_us;
        last_.server_us = head_.server_us, last_.valid_us = head_.valid_us;
        last_.n_seen = head_.budget_us;
        std::memcpy(last_.policy, head_.policy, sizeof last_.policy);
        last_.sent = Clock::time_point(Duration(head_.client_time_ns));
        const auto now_ns = static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
        last_.roundtrip = Duration(now_ns - static_cast<std::uint64_t>(head_.client_time_ns));  // may wrap around
        return last_;
    }

    const char *payload() { return static_cast<const char *>(zmq_msg_data(&connection_.message)) + sizeof head_; }

    const std::string endpoint_;
    const Options options_;
    Connection connection_;
    wire::Header head_;           // of the last message read
    std::vector<char> frame_;     // the last one sent
    std::uint64_t sequence_ = 0;  // of the last request
    std::uint64_t settled_ = 0;   // answers up to here are stale
    Action last_;
};

}  // namespace edp

// Runs the C++ client for test_cpp_client*.py: test_client COMMAND ENDPOINT ...
// Prints one answer a line.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <new>

#include "edp_client.hpp"

static thread_local std::size_t n_allocations = 0;

[[gnu::noinline]] void *operator new(std::size_t n_bytes) {
    ++n_allocations;
    if (void *memory = std::malloc(n_bytes ? n_bytes : 1)) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void *memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void *memory, std::size_t) noexcept { std::free(memory); }

using namespace std::chrono_literals;
using Arguments = std::vector<std::string>;

// Returns the numbers that the Python side makes, exactly: k / 8, (k + 1) / 8, ...
static std::vector<float> make_obs(std::size_t k, std::size_t n) {
    std::vector<float> obs(n);
    for (std::size_t i = 0; i < n; ++i) obs[i] = static_cast<float>(k + i) / 8;
    return obs;
}

static void print(const edp::Action &action) {
    std::printf("%llu", static_cast<unsigned long long>(action.sequence));
    for (float value : action.values) std::printf(" %a", static_cast<double>(value));
    std::printf("\n");
    std::fflush(stdout);
}

static edp::Client connect(const Arguments &arguments, std::size_t n_values = 0) {
    edp::Options options;
    options.timeout = 5s;
    options.n_values = n_values;
    if (arguments.size() > 3) {
        options.server_public = arguments[1];
        options.public_key = arguments[2];
        options.secret_key = arguments[3];
    }
    return edp::Client(arguments[0], options);
}

static void hello(const Arguments &arguments) { std::printf("%s\n", connect(arguments).hello().c_str()); }

static void acts(const Arguments &arguments) {  // ENDPOINT SEED OBS_DIM N
    edp::Client client(arguments[0], {5s});
    client.reset(std::stoll(arguments[1]));
    const std::size_t obs_dim = std::stoul(arguments[2]), n_obs = std::stoul(arguments[3]);
    for (std::size_t k = 0; k < n_obs; ++k) print(client.act(make_obs(k, obs_dim), 5s));
}

static void times(const Arguments &arguments) {  // ENDPOINT OBS_DIM
    edp::Client client(arguments[0], {5s});
    const auto before = edp::Clock::now();
    const edp::Action &action = client.act(make_obs(0, std::stoul(arguments[1])), 5s);
    const bool sane = action.sent >= before && action.roundtrip >= action.server_us * 1us &&
                      action.roundtrip <= edp::Clock::now() - before;
    std::printf("%u %u %u %u %d ", action.queue_us, action.inference_us, action.server_us, action.valid_us, sane);
    for (auto byte : action.policy) std::printf("%02x", byte);
    std::printf("\n");
}

static void bad(const Arguments &arguments) {  // ENDPOINT OBS_DIM: NaN, infinity and two wrong sizes, then a good one
    edp::Client client(arguments[0], {5s});
    const std::size_t n = std::stoul(arguments[1]);
    auto nan = make_obs(0, n), infinite = nan;
    nan[0] = std::numeric_limits<float>::quiet_NaN();
    infinite[n - 1] = -std::numeric_limits<float>::infinity();
    for (const auto &obs : {nan, infinite, make_obs(0, n + 1), std::vector<float>{}, std::vector<float>(1 << 18)}) {
        try {
            client.act(obs, 5s);
            std::printf("answered\n");
        } catch (const edp::Refused &error) {
            std::printf("%d %s\n", static_cast<int>(error.status), error.what());
        }
    }
    print(client.act(make_obs(0, n), 5s));
}

static void silence(const Arguments &arguments) {  // ENDPOINT DEADLINE_US
    edp::Client client(arguments[0]);
    const auto deadline = std::chrono::microseconds(std::stoll(arguments[1]));
    const auto start = edp::Clock::now();
    try {
        client.act({nullptr, 0}, deadline);
        std::printf("answered\n");
    } catch (const edp::Timeout &error) {
        const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(edp::Clock::now() - start);
        std::printf("%lld %s\n", static_cast<long long>(waited.count()), error.what());
    }
}

static void once(const Arguments &arguments) {  // ENDPOINT [KEYS]: one act; for servers that answer something odd
    edp::Client client = connect(arguments, 2);
    print(client.act({nullptr, 0}, 2s));
}

static void stale(const Arguments &arguments) {  // ENDPOINT: the first is given up, then five
    edp::Client client(arguments[0]);
    try {
        client.act({nullptr, 0}, 50ms);
    } catch (const edp::Timeout &) {
        std::printf("timeout\n");
    }
    std::printf("%d\n", client.try_receive() == nullptr);
    for (int i = 0; i < 5; ++i) print(client.act({nullptr, 0}, 5s));
}

static void overdue(const Arguments &arguments) {  // ENDPOINT: what was given up comes when the next one is refused
    edp::Client client(arguments[0]);
    try {
        client.act({nullptr, 0}, 50ms);
    } catch (const edp::Timeout &) {
        std::printf("timeout\n");
    }
    if (!client.send({nullptr, 0}, 5s)) throw edp::Error("not sent");
    try {
        for (const auto limit = edp::Clock::now() + 5s; edp::Clock::now() < limit;) client.try_receive();
    } catch (const edp::Refused &error) {
        std::printf("refused %d, holds %zu\n", static_cast<int>(error.status), client.last().values.size());
    }
}

static void overtake(const Arguments &arguments) {  // ENDPOINT: an act right after a send
    edp::Client client(arguments[0], {5s});
    client.hello();  // connected
    if (!client.send({nullptr, 0}, 5s)) throw edp::Error("not sent");
    print(client.act({nullptr, 0}, 5s));
}

// Sends N observations, each once an action is here for the last; prints them as they come.
static void pipeline(const Arguments &arguments) {  // ENDPOINT SEED OBS_DIM N
    edp::Client client(arguments[0], {5s});
    client.reset(std::stoll(arguments[1]));
    const std::size_t obs_dim = std::stoul(arguments[2]), n_obs = std::stoul(arguments[3]);
    for (std::size_t k = 0; k < n_obs; ++k) {
        if (!client.send(make_obs(k, obs_dim), 5s)) throw edp::Error("not sent");
        const auto limit = edp::Clock::now() + 5s;
        const edp::Action *action = nullptr;
        while (!action && edp::Clock::now() < limit) action = client.try_receive();
        if (!action) throw edp::Error("no action");
        print(*action);
    }
}

// Sends N observations at once and prints what is received until the last one is answered.
static void burst(const Arguments &arguments) {  // ENDPOINT N
    edp::Client client(arguments[0], {5s});
    client.hello();
    for (long k = 0; k < std::stol(arguments[1]); ++k)
        if (!client.send({nullptr, 0}, 5s)) throw edp::Error("not sent");
    const std::uint64_t last = 1 + std::stoul(arguments[1]);
    for (const auto limit = edp::Clock::now() + 5s; client.last().sequence < last && edp::Clock::now() < limit;)
        if (const edp::Action *action = client.try_receive()) print(*action);
}

static void allocations(const Arguments &arguments) {  // ENDPOINT OBS_DIM N
    edp::Client client(arguments[0], {5s});
    const auto obs = make_obs(0, std::stoul(arguments[1]));
    client.act(obs, 5s);
    const std::size_t before = n_allocations;
    for (std::size_t k = 0; k < std::stoul(arguments[2]); ++k) client.act(obs, 5s);
    std::printf("%zu %d\n", n_allocations - before, before > 0);
}

// Acts, waits for a line on stdin, says "held" where the next act fails, and acts again.
static void reconnect(const Arguments &arguments) {  // ENDPOINT OBS_DIM
    edp::Client client(arguments[0], {20s});
    const auto obs = make_obs(0, std::stoul(arguments[1]));
    print(client.act(obs, 20s));
    std::cin.get();  // the server is gone now
    try {
        client.act(obs, 50ms);
    } catch (const edp::Timeout &) {
        std::printf("held %zu\n", client.last().values.size());
        std::fflush(stdout);
    }
    print(client.act(obs, 20s));
}

int main(int argc, char **argv) {
    const std::map<std::string, std::function<void(const Arguments &)>> commands = {
        {"hello", hello}, {"acts", acts}, {"times", times}, {"bad", bad}, {"silence", silence},
        {"once", once}, {"stale", stale}, {"overdue", overdue}, {"overtake", overtake}, {"pipeline", pipeline},
        {"burst", burst}, {"allocations", allocations}, {"reconnect", reconnect}};
    try {
        if (argc < 3) throw std::invalid_argument("usage: test_client COMMAND ENDPOINT ...");
        commands.at(argv[1])(Arguments(argv + 2, argv + argc));
    } catch (const edp::Refused &error) {
        std::printf("refused %d %s\n", static_cast<int>(error.status), error.what());
    } catch (const edp::Timeout &error) {
        std::printf("timeout %s\n", error.what());
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}

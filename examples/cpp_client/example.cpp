// Drives a robot at 100 Hz with a served policy and prints how long the answers took.
//
//     edp_example tcp://127.0.0.1:5599 22 10       endpoint, obs_dim, seconds
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "edp_client.hpp"

using namespace std::chrono_literals;

constexpr auto period = 10ms;
constexpr auto deadline = 8ms;  // leaves 2 ms of the period to read the sensors and to drive the motors

// Replace it: reads the robot's sensors into `obs`, in the units and order of the manifest's fields.
static void read_sensors(std::vector<float> &obs, double time_s) {
    for (std::size_t i = 0; i < obs.size(); ++i)
        obs[i] = 0.1f * static_cast<float>(std::sin(time_s + static_cast<double>(i)));
}

// Replace it: drives the motors. values holds the whole chunk. Check the manifest's limits first.
static void drive_motors(const std::vector<float> &values) { (void)values; }

static double percentile(std::vector<double> sorted, double part) {
    if (sorted.empty()) return NAN;
    return sorted[static_cast<std::size_t>(part * static_cast<double>(sorted.size() - 1) + 0.5)];
}

static void run(const char *endpoint, std::size_t obs_dim, double seconds) {
    edp::Client client(endpoint);
    std::printf("hello: %.200s\n", client.hello().c_str());
    client.reset();
    std::vector<float> obs(obs_dim);
    std::vector<double> roundtrip_us;
    const auto n_ticks = static_cast<std::size_t>(seconds / std::chrono::duration<double>(period).count());
    roundtrip_us.reserve(n_ticks);
    std::size_t n_held = 0, n_skipped = 0;
    const auto start = edp::Clock::now();
    for (std::size_t tick = 0; tick < n_ticks; ++tick) {
        const auto due = start + tick * period;  // absolute: a late tick does not shift the ones after it
        if (edp::Clock::now() > due + period) {
            ++n_skipped;
            continue;
        }
        std::this_thread::sleep_until(due);
        read_sensors(obs, std::chrono::duration<double>(due - start).count());
        try {
            const edp::Action &action = client.act(obs, deadline);
            roundtrip_us.push_back(std::chrono::duration<double, std::micro>(action.roundtrip).count());
        } catch (const edp::Timeout &) {
            ++n_held;
        } catch (const edp::Refused &error) {  // a busy server recovers; a bad obs is a bug
            if (error.status != edp::Status::late && error.status != edp::Status::overloaded) throw;
            ++n_held;
        }
        if (!client.last().values.empty()) drive_motors(client.last().values);  // after a timeout this is the last one
    }
    std::sort(roundtrip_us.begin(), roundtrip_us.end());
    std::printf("%zu answers, round trip p50 %.0f us, p99 %.0f us; held %zu, skipped %zu\n", roundtrip_us.size(),
                percentile(roundtrip_us, 0.5), percentile(roundtrip_us, 0.99), n_held, n_skipped);
}

int main(int argc, char **argv) {
    if (argc != 4 || std::atoi(argv[2]) < 1 || !(std::atof(argv[3]) > 0)) {
        std::fprintf(stderr, "usage: %s ENDPOINT OBS_DIM SECONDS\n", argv[0]);
        return 2;
    }
    try {
        run(argv[1], static_cast<std::size_t>(std::atoi(argv[2])), std::atof(argv[3]));
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}

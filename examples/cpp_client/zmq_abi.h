// Declares the part of libzmq's stable C interface (ABI 5, libzmq 4.2 and later) that edp_client.hpp uses. It is for
// machines that have the library but not its header, for example from a Python wheel. Where <zmq.h> is installed,
// edp_client.hpp uses that instead.
#pragma once

#include <cstddef>

#define ZMQ_DEALER 5
#define ZMQ_ROUTING_ID 5
#define ZMQ_LINGER 17
#define ZMQ_RECONNECT_IVL 18
#define ZMQ_RECONNECT_IVL_MAX 21
#define ZMQ_MAXMSGSIZE 22
#define ZMQ_IMMEDIATE 39
#define ZMQ_IPV6 42
#define ZMQ_CURVE_PUBLICKEY 48
#define ZMQ_CURVE_SECRETKEY 49
#define ZMQ_CURVE_SERVERKEY 50
#define ZMQ_HEARTBEAT_IVL 75
#define ZMQ_HEARTBEAT_TIMEOUT 77
#define ZMQ_DONTWAIT 1
#define ZMQ_POLLIN 1
#define ZMQ_POLLOUT 2

#ifdef _WIN32
#error "on Windows, install libzmq with its header: the type of zmq_pollitem_t's fd differs there"
#endif

extern "C" {
typedef struct zmq_msg_t {
    alignas(void *) unsigned char data[64];
} zmq_msg_t;

typedef struct zmq_pollitem_t {
    void *socket;
    int fd;
    short events;
    short revents;
} zmq_pollitem_t;

int zmq_errno(void);
const char *zmq_strerror(int number);
void *zmq_ctx_new(void);
int zmq_ctx_term(void *context);
void *zmq_socket(void *context, int type);
int zmq_close(void *socket);
int zmq_setsockopt(void *socket, int option, const void *value, std::size_t n_bytes);
int zmq_connect(void *socket, const char *endpoint);
int zmq_send(void *socket, const void *data, std::size_t n_bytes, int flags);
int zmq_poll(zmq_pollitem_t *items, int n_items, long timeout_ms);
int zmq_msg_init(zmq_msg_t *message);
int zmq_msg_recv(zmq_msg_t *message, void *socket, int flags);
int zmq_msg_close(zmq_msg_t *message);
int zmq_msg_more(const zmq_msg_t *message);
void *zmq_msg_data(zmq_msg_t *message);
std::size_t zmq_msg_size(const zmq_msg_t *message);
}

/* OpenMPI: which path it takes (shared memory, TCP) is mpirun's business. */
#include <mpi.h>

#include "bench_ring.h"

static int other;

void mpi_start(int *argc, char ***argv, int *rank)
{
	MPI_Init(argc, argv);
	MPI_Comm_rank(MPI_COMM_WORLD, rank);
	other = !*rank;
}

void mpi_stop(void)
{
	MPI_Finalize();
}

static void mpi_send(const void *p, size_t n)
{
	MPI_Send(p, (int)n, MPI_BYTE, other, 0, MPI_COMM_WORLD);
}

static void mpi_recv(void *p, size_t n)
{
	MPI_Recv(p, (int)n, MPI_BYTE, other, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

/* As the OSU benchmark does it: a window of messages under way at once. */
static void mpi_sends(const void *p, const void *last, size_t n)
{
	MPI_Request q[RB_BATCH];

	for (int i = 0; i < RB_BATCH; i++)
		MPI_Isend(i < RB_BATCH - 1 ? p : last, (int)n, MPI_BYTE, other, 0, MPI_COMM_WORLD, &q[i]);
	MPI_Waitall(RB_BATCH, q, MPI_STATUSES_IGNORE);
}

static void mpi_recvs(void *p, void *last, size_t n)
{
	MPI_Request q[RB_BATCH];

	for (int i = 0; i < RB_BATCH; i++)
		MPI_Irecv(i < RB_BATCH - 1 ? p : last, (int)n, MPI_BYTE, other, 0, MPI_COMM_WORLD, &q[i]);
	MPI_Waitall(RB_BATCH, q, MPI_STATUSES_IGNORE);
}

const struct way mpi_way = { "mpi", 0, true, NULL, NULL, mpi_send, mpi_recv, mpi_sends, mpi_recvs };

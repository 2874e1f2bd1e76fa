# A drain every five minutes, for work that can wait for it: nomad job run drain.nomad.hcl
# Put your own name for IMAGE. The variable nomad/jobs/convolab-drain has redis_url.
job "convolab-drain" {
  type = "batch"

  periodic {
    crons            = ["*/5 * * * *"]
    prohibit_overlap = true
  }

  group "drain" {
    # Exit code 1 says that a job failed for good: another drain would not mend it.
    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "drain" {
      driver       = "docker"
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      config {
        image = "IMAGE"
        args  = ["drain", "--budget", "50m"]
      }

      env {
        CONVOLAB_APP            = "app.jobs:handlers"
        CONVOLAB_QUEUES         = "audio-generation,dialogue-generation"
        CONVOLAB_SHUTDOWN_GRACE = "20s"
      }

      template {
        destination = "secrets/convolab.env"
        env         = true
        data        = <<-EOT
          {{ with nomadVar "nomad/jobs/convolab-drain" }}
          REDIS_URL={{ .redis_url }}
          {{ end }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 512
      }
    }
  }
}
